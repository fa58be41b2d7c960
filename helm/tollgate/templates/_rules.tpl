{{/* Made from deploy/observability/rules.yaml by `just chart-rules`; tests/packaging compares the two. */}}
{{- define "tollgate.rules" -}}
groups:
  - name: tollgate
    rules:
      - alert: TollgateNotEntitled
        expr: max by (namespace, pod) (tollgate_entitlement_state{state=~"denied|misconfigured|unverified"}) == 1
        for: 5m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} is not entitled: AWS or the token says no"
          description: "kubectl describe pod names reason and remedy; docs/RUNBOOK.md explains the code."
      - alert: TollgatePendingTooLong
        expr: max by (namespace, pod) (tollgate_entitlement_state{state=~"pending|unavailable"}) == 1
        for: 15m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} has waited for AWS's answer for 15 minutes"
          description: "AWS cannot be reached: network, proxy, DNS or VPC endpoint."
      - alert: TollgateGrace
        expr: max by (namespace, pod) (tollgate_entitlement_state{state="grace"}) == 1
        for: 1m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} is open on grace only: it shuts when that ends"
      - alert: TollgateLapsed
        expr: max by (namespace, pod) (tollgate_entitlement_state{state="lapsed"}) == 1
        for: 5m
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} was entitled and no longer is"
      - alert: TollgateBadToken
        # The series begins with the first bad token, and `increase` sees no rise in a first value.
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
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} asks with a public key version that AWS has rotated"
          description: "Build the newer key from the AWS Marketplace Management Portal into the image, as the next version."
      - alert: TollgateEmulated
        expr: tollgate_emulated == 1
        for: 1m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} is open on the emulator's word"
      - alert: TollgateUsageUnsent
        # Half of AWS's window, whichever the mode has; the deadline is tollgate's own, with the end of a month in it.
        expr: |-
          tollgate_usage_oldest_unsent_timestamp_seconds > 0 and
          tollgate_usage_oldest_unsent_deadline_timestamp_seconds - time()
            < (tollgate_usage_oldest_unsent_deadline_timestamp_seconds - tollgate_usage_oldest_unsent_timestamp_seconds) / 2
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} has usage that AWS has not taken after half of its window"
          description: "tollgate ledger list shows the records; after the window they are dead letters or carried."
      - alert: TollgateDeadLetters
        expr: tollgate_usage_dead_letters > 0
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{" }} $labels.pod {{ "}}" }} holds {{ "{{" }} $value {{ "}}" }} records that will not be billed unless somebody acts"
          description: "tollgate ledger dead-letters"
      - alert: TollgateClockSkew
        expr: abs(tollgate_clock_skew_seconds) > 60
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
          summary: "the gate of {{ "{{" }} $labels.pod {{ "}}" }} is shut: AWS has not accepted its usage for longer than the seller allows"
          description: "tollgate ledger list shows why; docs/RUNBOOK.md, UsageUnreported, says what to do."
      - alert: TollgateUsageOverdue
        # Half of what on_unsent allows, or three hours where the gate stays open.
        expr: tollgate_usage_overdue_seconds > tollgate_usage_overdue_alarm_seconds and tollgate_usage_overdue_alarm_seconds > 0
        labels: { severity: critical }
        annotations:
          summary: "AWS has not accepted usage of {{ "{{" }} $labels.pod {{ "}}" }} for {{ "{{" }} $value | humanizeDuration {{ "}}" }}"
          description: "tollgate ledger list shows why; docs/RUNBOOK.md, UsageUnreported, says what to do."
      - alert: TollgateDimensionUnknown
        expr: tollgate_usage_dimension_unknown == 1
        labels: { severity: critical }
        annotations:
          summary: "AWS does not know the dimension {{ "{{" }} $labels.dimension {{ "}}" }} of {{ "{{" }} $labels.pod {{ "}}" }}: its usage cannot be billed"
          description: "The seller corrects dimensions; until then its records become dead letters."
{{- end -}}
