{{/* Made from deploy/observability/rules.yaml by `just chart-rules`; tests/packaging compares the two. */}}
{{- define "tollgate-saas.rules" -}}
groups:
  - name: tollgate
    rules:
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
      - alert: TollgateEmulated
        expr: tollgate_emulated == 1
        for: 1m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} was answered by the emulator, not by AWS"
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
      - alert: TollgateDimensionUnknown
        expr: tollgate_usage_dimension_unknown == 1
        labels: { severity: critical }
        annotations:
          summary: "AWS does not know the dimension {{ "{{" }} $labels.dimension {{ "}}" }} of {{ "{{" }} $labels.pod {{ "}}" }}: its usage cannot be billed"
          description: "The seller corrects dimensions; until then its records become dead letters."
{{- end -}}
