"""deploy/events/forward.sh against an HTTP server, with a folder in place of the queues.

Usage: events.py [TEST…]
"""

import http.server
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Stands for `aws sqs …`: a message is a file of the folder; `receive-message` prints the oldest as the CLI does, and `None` where there is none.
AWS = """#!/bin/sh
command=$2
shift 2
while [ $# -gt 0 ]; do
    case $1 in
        --queue-url) queue=$2 ;;
        --receipt-handle) handle=$2 ;;
        --message-body) body=$2 ;;
    esac
    shift
done
case $command in
    receive-message)
        if [ -e "$QUEUES/broken" ]; then rm "$QUEUES/broken"; exit 255; fi
        for file in "$queue"/*; do
            if [ -e "$file" ]; then printf '%s\\t%s\\n' "${file##*/}" "$(cat "$file")"; else echo None; sleep 0.05; fi
            break
        done ;;
    delete-message) rm "$queue/$handle" ;;
    send-message) printf '%s' "$body" > "$queue/refused" ;;
esac
"""


class Forward(unittest.TestCase):
    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder)
        self.events, self.refused = self.folder / "events", self.folder / "refused"
        for path in (self.events, self.refused, self.folder / "bin"):
            path.mkdir()
        (self.folder / "bin/aws").write_text(AWS)
        (self.folder / "bin/aws").chmod(0o755)
        (self.folder / "token").write_text("secret-of-the-seller\n")
        self.heard, self.answers = [], []
        test = self

        class Tollgate(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                test.heard.append((self.path, self.headers["authorization"], self.headers["content-type"], body))
                self.send_response(test.answers.pop(0) if test.answers else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tollgate)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def forward(self, until):
        """Runs the script until `until` holds."""
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "QUEUES": str(self.folder), "QUEUE_URL": str(self.events),
            "REFUSED_URL": str(self.refused), "TOLLGATE_URL": f"http://127.0.0.1:{self.server.server_port}",
            "TOKEN_FILE": str(self.folder / "token"),
        }
        script = subprocess.Popen(["sh", ROOT / "deploy/events/forward.sh"], env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while not until():
            self.assertIsNone(script.poll(), "the script ended")
            self.assertLess(time.monotonic(), deadline, "nothing happened")
            time.sleep(0.01)
        script.terminate()
        return script.communicate()[1]

    def test_an_event_arrives_as_it_is_and_leaves_the_queue(self):
        event = json.dumps({"id": "e-1", "detail": {"text": "it's \"quoted\" $HOME `date` @file \\n é"}})
        (self.events / "1").write_text(event)
        self.forward(lambda: not any(self.events.iterdir()))
        self.assertEqual(self.heard, [("/v1/events/marketplace", "Bearer secret-of-the-seller", "application/json", event)])

    def test_an_event_that_is_not_taken_stays_and_comes_again(self):
        (self.events / "1").write_text('{"id": "e-1"}')
        self.answers = [503, 401, 404]
        errors = self.forward(lambda: not any(self.events.iterdir()))
        self.assertEqual(len(self.heard), 4)
        for status in (503, 401, 404):
            self.assertIn(f"did not take an event ({status})", errors)
        self.assertFalse(any(self.refused.iterdir()))

    def test_an_event_that_is_refused_is_set_aside(self):
        (self.events / "1").write_text('{"id": "e-1"}')
        self.answers = [422]
        self.forward(lambda: not any(self.events.iterdir()))
        self.assertEqual((self.refused / "refused").read_text(), '{"id": "e-1"}')

    def test_a_queue_or_a_tollgate_that_is_down_ends_nothing(self):
        (self.folder / "broken").write_text("")
        (self.events / "1").write_text('{"id": "e-1"}')
        errors = self.forward(lambda: not any(self.events.iterdir()))
        self.assertIn("the queue cannot be read", errors)


if __name__ == "__main__":
    unittest.main(verbosity=2)
