{{- define "tollgate-saas.selector" -}}
app.kubernetes.io/name: tollgate-saas
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tollgate-saas.database" -}}
{{ .Release.Name | trunc 46 | trimSuffix "-" }}-example-database
{{- end -}}

{{/* Its labels differ from those of the replicas in the name, so the Service does not choose it. */}}
{{- define "tollgate-saas.databaseSelector" -}}
app.kubernetes.io/name: tollgate-saas-example-database
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tollgate-saas.account" -}}
{{ .Values.serviceAccount.name | default (ternary .Release.Name "default" .Values.serviceAccount.create) }}
{{- end -}}

{{/* Ports of the calls to AWS: HTTPS, and those of a proxy or an emulator in its place. */}}
{{- define "tollgate-saas.egress" -}}
443 {{- range list .Values.proxy.https .Values.settings.endpoint_url -}}
  {{- if . -}}
    {{- $authority := regexReplaceAll "^[a-z]+://" (toString .) "" | regexFind "^[^/?#]*" -}}
    {{- $port := regexFind ":[0-9]+$" $authority | trimPrefix ":" }} {{ $port | default (ternary "443" "80" (hasPrefix "https:" .)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* A dict as one TOML inline table, as the library chart writes it. */}}
{{- define "tollgate-saas.inlineTable" -}}
{{- $members := list -}}
{{- range $key, $value := . -}}
  {{- if kindIs "map" $value -}}
    {{- $members = append $members (printf "%s = %s" (toJson $key) (include "tollgate-saas.inlineTable" $value)) -}}
  {{- else if not (kindIs "invalid" $value) -}}
    {{- $members = append $members (printf "%s = %s" (toJson $key) (toJson $value)) -}}
  {{- end -}}
{{- end -}}
{{- printf "{ %s }" (join ", " $members) -}}
{{- end -}}

{{/* Values that cannot run; each sentence says what to set. */}}
{{- define "tollgate-saas.check" -}}
{{- if not .Values.appToken.existingSecret -}}
  {{- fail "tollgate-saas: set appToken.existingSecret: usage comes over the network, so each request carries a token. Make it with: openssl rand -hex 32 >token; kubectl create secret generic tollgate-saas-token --from-file=token" -}}
{{- end -}}
{{- if not .Values.database.existingSecret -}}
  {{- fail "tollgate-saas: set database.existingSecret: the replicas share a PostgreSQL database, whose URL, with the password, is in a Secret under the key url" -}}
{{- end -}}
{{- if and .Values.productCode (not .Values.settings.dimensions) -}}
  {{- fail "tollgate-saas: productCode needs settings.dimensions: usage of a dimension that is not listed is rejected" -}}
{{- end -}}
{{- if and .Values.serviceAccount.roleArn (not .Values.serviceAccount.create) -}}
  {{- fail "tollgate-saas: serviceAccount.roleArn is an annotation of the account, so it needs serviceAccount.create" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
  {{- if hasPrefix "TOLLGATE_" .name -}}
    {{- fail (printf "tollgate-saas: extraEnv has %s; use settings, or the value of its own" .name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
