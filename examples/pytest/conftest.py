"""Makes the fixtures `emulator` and `sidecar` known to the tests here."""

pytest_plugins = ["tollgate_rehearsal"]
