{{/* What stands beside the workload, by switch: {{ include "tollgate.resources" (list . $podLabels) }}, once in a chart. */}}
{{- define "tollgate.resources" -}}
{{- $root := index . 0 -}}
{{- $labels := index . 1 -}}
{{- $values := $root.Values.tollgate -}}
{{- $name := printf "%s-tollgate" $root.Release.Name | trunc 63 | trimSuffix "-" -}}
{{- $products := (include "tollgate.products" $root | fromYaml).products -}}
{{- if $values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ required "tollgate: set tollgate.serviceAccount.name to the account that is to be made" $values.serviceAccount.name }}
  namespace: {{ $root.Release.Namespace }}
  {{- with $values.serviceAccount.roleArn }}
  annotations:
    eks.amazonaws.com/role-arn: {{ . }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- if $values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
spec:
  podSelector:
    matchLabels:
      {{- toYaml $labels | nindent 6 }}
  policyTypes: [Egress]
  egress:
    # Names; then AWS (STS and metering) over HTTPS, or the proxy. Narrow the addresses where your VPC endpoints are known.
    - ports: [{ port: 53, protocol: UDP }, { port: 53, protocol: TCP }]
    {{- $egress := list }}
    {{- range $products }}
    {{- $egress = concat $egress (splitList " " (include "tollgate.egress" .)) }}
    {{- end }}
    {{- range uniq $egress }}
    - ports: [{ port: {{ . }}, protocol: TCP }]
    {{- end }}
    {{- with $values.networkPolicy.egress }}
    # What the application itself needs.
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- if $values.podMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- with $values.podMonitor.labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  selector:
    matchLabels:
      {{- toYaml $labels | nindent 6 }}
  podMetricsEndpoints:
    {{- range $products }}
    - { port: {{ printf "gate-%v" .ports.probe | quote }}, path: /metrics }
    {{- end }}
{{- end }}
{{- if $values.prometheusRule.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- with $values.prometheusRule.labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "tollgate.rules" $root | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What NOTES.txt may say: {{ include "tollgate.notes" . }}. */}}
{{- define "tollgate.notes" -}}
This product is gated by tollgate: it starts when AWS Marketplace confirms the subscription of this account.

`Init:0/1`, or not ready? Ask the pod:

  kubectl describe pod POD -n {{ .Release.Namespace }}       # the startup probe's line names the reason and the remedy
  kubectl logs POD -c {{ (index (include "tollgate.products" . | fromYaml).products 0).name }} -n {{ .Release.Namespace }}

  kubectl exec POD -c {{ (index (include "tollgate.products" . | fromYaml).products 0).name }} -n {{ .Release.Namespace }} -- /tollgate doctor

It goes on asking by itself; after a repair nothing needs a restart.
{{- end -}}
