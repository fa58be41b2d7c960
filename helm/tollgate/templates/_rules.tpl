{{/* Made from deploy/observability/rules.yaml by `just chart-rules`; tests/packaging compares the two. */}}
{{- define "tollgate.rules" -}}
groups:
  - name: tollgate
    rules:
      # A state that comes and goes must not restart `for` each time, so a state within the last six minutes counts:
      # attempts are at most that far apart. The window is shorter than `for`, so that a single occurrence does not
      # fire.
      - alert: TollgateNotEntitled
        expr: max by (namespace, pod) (max_over_time(tollgate_entitlement_state{state=~"denied|misconfigured|unverified"}[6m])) == 1
        for: 10m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} is not entitled: AWS or the token says no"
          description: "The last log line of tollgate names reason and remedy; docs/RUNBOOK.md explains the code."
      - alert: TollgatePendingTooLong
        expr: max by (namespace, pod) (max_over_time(tollgate_entitlement_state{state=~"pending|unavailable"}[6m])) == 1
        for: 15m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} has waited for AWS's answer for 15 minutes"
          description: "AWS cannot be reached: network, proxy, DNS or VPC endpoint."
      - alert: TollgateGateShut
        # In any state: the gate shuts again and again, or was never open.
        expr: min by (namespace, pod) (min_over_time(tollgate_gate_open[6m])) == 0
        for: 12m
        labels: { severity: critical }
        annotations:
          summary: "the gate of {{ "{{" }} $labels.pod {{ "}}" }} has been shut, at least now and then, for twelve minutes"
          description: "tollgate probe ready names the state and what to do; docs/RUNBOOK.md explains the code."
      - alert: TollgateSidecarGone
        # Prometheus still discovers the target, and scraped tollgate from it within a day.
        expr: max by (namespace, pod) (max_over_time(up[4m]) == 0 and on (job, instance) last_over_time(tollgate_build_info[1d])) == 0
        for: 5m
        labels: { severity: critical }
        annotations:
          summary: "the sidecar of {{ "{{" }} $labels.pod {{ "}}" }} does not answer: its usage is not reported, and its other alerts cannot fire"
          description: "kubectl describe pod shows how its container ended; docs/RUNBOOK.md explains the exit code."
      - alert: TollgateGrace
        # No wait, because the gate shuts when the grace ends; a grace that comes and goes counts,
        # too.
        expr: max by (namespace, pod) (max_over_time(tollgate_entitlement_state{state="grace"}[5m])) == 1
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} is open only for the grace period, and shuts when that ends"
      - alert: TollgateLapsed
        expr: max by (namespace, pod) (max_over_time(tollgate_entitlement_state{state="lapsed"}[6m])) == 1
        for: 10m
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} was entitled and no longer is"
      - alert: TollgateBadToken
        # The series starts with the first bad token, and `increase` shows no rise for a first
        # value.
        expr: >-
          increase(tollgate_token_verification_failures_total[10m]) > 0
          or (tollgate_token_verification_failures_total > 0 unless tollgate_token_verification_failures_total offset 10m)
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} was given a token that is not AWS's ({{ "{{" }} $labels.reason {{ "}}" }})"
      - alert: TollgateKeyRotated
        expr: tollgate_public_key_rotation_timestamp_seconds > 0
        for: 5m
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} uses a public key version that AWS has rotated"
          description: "Build the newer key from the AWS Marketplace Management Portal into the image, as the next version."
      - alert: TollgateEmulated
        expr: tollgate_emulated == 1
        for: 1m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} was answered by the emulator, not by AWS"
      - alert: TollgateExhausted
        expr: max by (namespace, pod) (max_over_time(tollgate_entitlement_state{state="exhausted"}[6m])) == 1
        for: 10m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} has waited for a seat for ten minutes: all seats of the contract are taken"
          description: "tollgate license shows seats sold and taken. Scale something down, or buy more seats."
      # One alert for all pods of a release, which have one contract.
      - alert: TollgateLicenseEnding
        expr: |-
          min by (namespace, job) (tollgate_license_end_timestamp_seconds > 0) - time() < 14 * 86400
          and min by (namespace, job) (tollgate_license_end_timestamp_seconds > 0) - time() > 0
        for: 5m
        labels: { severity: warning }
        annotations:
          summary: "the contract of {{ "{{" }} $labels.job {{ "}}" }} in {{ "{{" }} $labels.namespace {{ "}}" }} ends in {{ "{{" }} $value | humanizeDuration {{ "}}" }}"
          description: "Renew it in AWS Marketplace, Manage subscriptions; pods see the new end by themselves."
      - alert: TollgateLicenseEnded
        expr: time() - min by (namespace, job) (tollgate_license_end_timestamp_seconds > 0) >= 0
        for: 5m
        labels: { severity: critical }
        annotations:
          summary: "the contract of {{ "{{" }} $labels.job {{ "}}" }} in {{ "{{" }} $labels.namespace {{ "}}" }} ended {{ "{{" }} $value | humanizeDuration {{ "}}" }} ago"
          description: "Gates shut when license_end_grace has passed. Renew the contract in AWS Marketplace, Manage subscriptions."
      - alert: TollgateLicenseNotRenewed
        # tollgate computes this time: half of the latest grant's duration, and later than a punctual round.
        expr: |-
          time() - tollgate_license_granted_timestamp_seconds
          and tollgate_license_alarm_timestamp_seconds > 0 and time() > tollgate_license_alarm_timestamp_seconds
        labels: { severity: critical }
        annotations:
          summary: "License Manager has granted {{ "{{" }} $labels.pod {{ "}}" }} nothing for {{ "{{" }} $value | humanizeDuration {{ "}}" }}, half of the time of the latest grant"
          description: "The code of tollgate_license_calls_total says why; docs/RUNBOOK.md explains it. A seat that ends goes to others."
      - alert: TollgateLicenseSeatsLow
        # Pods check at different times, so the highest number may be a quarter of an hour old; therefore the condition
        # must last. In model `check` pods hold no seats, and none waits for one.
        expr: |-
          max by (namespace, job, dimension) (tollgate_license_seats{kind="used"})
            >= 0.9 * (max by (namespace, job, dimension) (tollgate_license_seats{kind="max"}) > 0)
          and max by (namespace, job, dimension) (tollgate_license_seats{kind="held"}) > 0
        for: 30m
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{" }} $value {{ "}}" }} seats of {{ "{{" }} $labels.dimension {{ "}}" }} are taken, nine tenths of what the contract of {{ "{{" }} $labels.job {{ "}}" }} in {{ "{{" }} $labels.namespace {{ "}}" }} has"
          description: "The next pods may wait for a seat: buy more, or scale down."
      - alert: TollgateUsageUnsent
        # Half of the mode's window at AWS; tollgate computes the deadline, and takes the end of a month into account.
        expr: |-
          tollgate_usage_oldest_unsent_timestamp_seconds > 0 and
          tollgate_usage_oldest_unsent_deadline_timestamp_seconds - time()
            < (tollgate_usage_oldest_unsent_deadline_timestamp_seconds - tollgate_usage_oldest_unsent_timestamp_seconds) / 2
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} has usage that AWS has not taken after half of its window"
          description: "tollgate ledger list shows the records; after the window they are dead letters or carried."
      - alert: TollgateUsageNotBilled
        # A pod that still runs acknowledged usage two to three hours ago, and AWS has accepted no record since. A new
        # series has no increase, so a series that is younger than the window counts, too.
        expr: |-
          (
            (
              sum without (dimension, status) (increase(tollgate_usage_events_total{status="accepted"}[1h] offset 2h)) > 0
              or sum without (dimension, status) (tollgate_usage_events_total{status="accepted"} offset 2h unless tollgate_usage_events_total offset 3h) > 0
            )
            and tollgate_usage_unsent_records
          ) unless (
            sum without (dimension, outcome) (increase(tollgate_usage_records_total{outcome="accepted"}[3h])) > 0
            or sum without (dimension, outcome) (tollgate_usage_records_total{outcome="accepted"} unless tollgate_usage_records_total{outcome="accepted"} offset 3h) > 0
          )
          unless on (namespace, pod) tollgate_build_info{build=~"tollgate-saas.*"}
        for: 15m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} takes usage, and AWS has accepted none of it for three hours"
          description: "tollgate ledger list --state sealed shows what waits and AWS's latest code for it."
      - alert: TollgateSaasNotBilled
        # The same for replicas that share a ledger: each takes usage, and one sends, so they count together.
        expr: |-
          (
            sum by (namespace, job) (
              tollgate_usage_events_total{status="accepted"} offset 2h unless tollgate_usage_events_total offset 3h
              or increase(tollgate_usage_events_total{status="accepted"}[1h] offset 2h)
            ) > 0
          ) unless (
            sum by (namespace, job) (
              tollgate_usage_records_total{outcome="accepted"} unless tollgate_usage_records_total offset 3h
              or increase(tollgate_usage_records_total{outcome="accepted"}[3h])
            ) > 0
          )
          and on (namespace, job) tollgate_build_info{build=~"tollgate-saas.*"}
        for: 15m
        labels: { severity: critical }
        annotations:
          summary: "the replicas of {{ "{{" }} $labels.job {{ "}}" }} take usage, and AWS has accepted none of it for three hours"
          description: "tollgate-saas ledger list --state sealed shows what waits and AWS's latest code for it."
      - alert: TollgateUsageRejected
        # `bad_request` and similar reasons: no usage of such a request is counted, even if it is sent again. A reason's
        # series starts with its first event, and `increase` shows no rise for a first value.
        expr: |-
          increase(tollgate_usage_events_rejected_total[15m]) > 0
          or (tollgate_usage_events_rejected_total > 0 unless tollgate_usage_events_rejected_total offset 15m)
          or increase(tollgate_usage_requests_refused_total{reason=~"bad_request|strict|door_product"}[15m]) > 0
          or (
            tollgate_usage_requests_refused_total{reason=~"bad_request|strict|door_product"} > 0
            unless tollgate_usage_requests_refused_total offset 15m
          )
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} rejects usage that an application reports ({{ "{{" }} $labels.reason {{ "}}" }}): it is not billed"
          description: "The sidecar's log names dimension and reason once a minute; correct the application, or dimensions."
      - alert: TollgateUsageRefused
        # The application repeats such a request; usage that is still refused when the application ends is lost.
        expr: increase(tollgate_usage_requests_refused_total{reason=~"busy|unanswered|door_rate"}[10m]) > 0
        for: 15m
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} has refused usage requests for a quarter of an hour ({{ "{{" }} $labels.reason {{ "}}" }})"
          description: "Send fewer or smaller requests at once; docs/RUNBOOK.md, TollgateUsageRefused, says what each reason is."
      - alert: TollgateLedgerFull
        # Usage that was refused once by an application that has ended: see TollgateUsageRejected.
        expr: |-
          increase(tollgate_usage_requests_refused_total{reason="ledger_full"}[15m]) > 0
          or (
            tollgate_usage_requests_refused_total{reason="ledger_full"} > 0
            unless tollgate_usage_requests_refused_total offset 15m
          )
        labels: { severity: critical }
        annotations:
          summary: "the ledger of {{ "{{" }} $labels.pod {{ "}}" }} is full: usage is refused"
          description: "The log says what fills it. Raise ledger_bytes_max, or fix why AWS does not accept the records."
      - alert: TollgateLedgerFilling
        expr: tollgate_ledger_bytes_max > 0 and tollgate_ledger_bytes > 0.8 * tollgate_ledger_bytes_max
        for: 5m
        labels: { severity: warning }
        annotations:
          summary: "the ledger of {{ "{{" }} $labels.pod {{ "}}" }} has reached four fifths of ledger_bytes_max, where usage is refused"
          description: "Raise ledger_bytes_max and the volume, or fix why AWS does not accept the records."
      - alert: TollgateLedgerFails
        expr: increase(tollgate_ledger_commit_failures_total[15m]) > 0
        labels: { severity: critical }
        annotations:
          summary: "a read or a write of the ledger of {{ "{{" }} $labels.pod {{ "}}" }} failed: usage may be refused, or not sent"
          description: "The log names the error; most often the volume is full, read-only or slow."
      - alert: TollgateLedgerUnavailable
        # While a sidecar starts, a few requests may come before the ledger is open.
        expr: increase(tollgate_usage_requests_refused_total{reason="ledger_unavailable"}[8m]) > 0
        for: 10m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} has refused usage for ten minutes: its ledger is not open, or cannot be written"
          description: "The log names the error; most often the volume is full, read-only or slow."
      - alert: TollgateStateUnwritable
        # An open gate writes once an hour. The first write may fail before the first scrape; `increase` shows no rise
        # for that.
        expr: >-
          increase(tollgate_state_write_failures_total[70m]) > 0
          or (tollgate_state_write_failures_total > 0 unless tollgate_state_write_failures_total offset 70m)
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} failed to write to its state folder: a restart loses its registration or its license"
          description: "The log names the error; most often the volume is full, read-only or slow."
      - alert: TollgateDeadLetters
        expr: tollgate_usage_dead_letters > 0
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} holds {{ "{{" }} $value {{ "}}" }} records that will not be billed unless somebody acts"
          description: "tollgate ledger dead-letters names them; docs/RUNBOOK.md says for each code: replay, confirm or discard."
      - alert: TollgateClockSkew
        expr: max_over_time(abs(tollgate_clock_skew_seconds)[10m:1m]) > 60
        for: 5m
        labels: { severity: warning }
        annotations:
          summary: "the clock of {{ "{{" }} $labels.pod {{ "}}" }} is {{ "{{" }} $value {{ "}}" }} s off"
      - alert: TollgateEntitledAfterRefusal
        expr: increase(tollgate_entitled_after_refusal_total[1h]) > 0
        labels: { severity: info }
        annotations:
          summary: "AWS accepted {{ "{{" }} $labels.pod {{ "}}" }} after it had refused it"
      - alert: TollgateUnreported
        expr: max by (namespace, pod) (tollgate_entitlement_state{state="unreported"}) == 1
        labels: { severity: critical }
        annotations:
          summary: "the gate of {{ "{{" }} $labels.pod {{ "}}" }} is shut: AWS has not accepted its usage, or its ledger has taken none, for longer than the seller allows"
          description: "tollgate ledger list or the log (usage_not_taken) shows why; docs/RUNBOOK.md, UsageUnreported or UsageNotTaken, says what to do."
      - alert: TollgateUsageOverdue
        # Half of the time of on_unsent, or three hours if the gate stays open.
        expr: tollgate_usage_overdue_seconds > tollgate_usage_overdue_alarm_seconds and tollgate_usage_overdue_alarm_seconds > 0
        labels: { severity: critical }
        annotations:
          summary: "AWS or the ledger has not taken usage of {{ "{{" }} $labels.pod {{ "}}" }} for {{ "{{" }} $value | humanizeDuration {{ "}}" }}"
          description: "tollgate ledger list or the log (usage_not_taken) shows why; docs/RUNBOOK.md, UsageUnreported or UsageNotTaken, says what to do."
      - alert: TollgateDimensionUnknown
        expr: tollgate_usage_dimension_unknown == 1
        labels: { severity: critical }
        annotations:
          summary: "AWS does not know the dimension {{ "{{" }} $labels.dimension {{ "}}" }} of {{ "{{" }} $labels.pod {{ "}}" }}: its usage cannot be billed"
          description: "The seller corrects dimensions; until then its records become dead letters."
{{- end -}}
