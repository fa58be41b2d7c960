{{/*
The resources beside the workloads, each by its switch: {{ include "tollgate.resources" (list . $podLabels) }}. For a second
set of pods a third item gives it a name, (dict "name" "worker"); the dependency's alias is in that item, too.
*/}}
{{- define "tollgate.resources" -}}
{{- $root := index . 0 -}}
{{- $labels := index . 1 -}}
{{- $options := slice . 2 | first | default dict -}}
{{- include "tollgate.options" (dict "options" $options "known" (list "alias" "name")) -}}
{{- if not (and (kindIs "map" $labels) $labels) -}}
  {{- fail "tollgate: tollgate.resources needs the labels of your pods, such as (list . (dict \"app\" .Release.Name))" -}}
{{- end -}}
{{- $values := include "tollgate.values" (dict "root" $root "alias" $options.alias) | fromYaml -}}
{{- $products := (include "tollgate.products" (dict "values" $values) | fromYaml).products -}}
{{- $suffix := without (list $options.name "tollgate") nil "" | join "-" -}}
{{- $name := printf "%s-%s" $root.Release.Name $suffix | trunc 63 | trimSuffix "-" -}}
{{- include "tollgate.once" (dict "root" $root "what" (printf "name %s" $name) "who" "one tollgate.resources") -}}
{{- $account := include "tollgate.account" (dict "root" $root "values" $values) -}}
{{- $again := hasKey $root.tollgateClaimed (printf "account %s" $account) -}}
{{- if and $values.serviceAccount.create (not $again) }}
{{- $_ := set $root.tollgateClaimed (printf "account %s" $account) true }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $account | quote }}
  namespace: {{ $root.Release.Namespace }}
  {{- with $values.serviceAccount.roleArn }}
  annotations:
    eks.amazonaws.com/role-arn: {{ . | quote }}
  {{- end }}
{{- if not $values.serviceAccount.automountToken }}
automountServiceAccountToken: false
{{- end }}
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
    # DNS; then AWS (STS and metering) over HTTPS, or the proxy. Restrict the addresses if your VPC endpoints are known.
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
{{- if and $values.prometheusRule.enabled (not (hasKey $root.tollgateClaimed "rules")) }}
{{- $_ := set $root.tollgateClaimed "rules" true }}
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

{{/* Text for NOTES.txt: {{ include "tollgate.notes" . }}, with an alias {{ include "tollgate.notes" (list . (dict "alias" "gate")) }}. */}}
{{- define "tollgate.notes" -}}
{{- $given := kindIs "slice" . | ternary . (list .) -}}
{{- $root := first $given -}}
{{- $options := slice $given 1 | first | default dict -}}
{{- include "tollgate.options" (dict "options" $options "known" (list "alias")) -}}
{{- $values := include "tollgate.values" (dict "root" $root "alias" $options.alias) | fromYaml -}}
{{- $product := first (include "tollgate.products" (dict "values" $values) | fromYaml).products -}}
{{- $native := eq $product.gate "native" -}}
This product is gated by tollgate: it starts when AWS Marketplace confirms the subscription of this account.

{{ if $native }}`Init:1/2`{{ else }}Not ready{{ end }}? Ask the pod; the last line names the reason and the remedy:

  kubectl logs POD -c {{ ternary $product.await $product.name $native }} -n {{ $root.Release.Namespace }}
  {{- if $native }}
  kubectl describe pod POD -n {{ $root.Release.Namespace }}       # the same under Last State, where AWS has refused for 30 s (not in a Job)
  {{- end }}
  kubectl exec POD -c {{ $product.name }} -n {{ $root.Release.Namespace }} -- /tollgate doctor

It asks again by itself. Replace a pod that is still refused ten minutes after the repair.
{{- end -}}
