{{/* The products: at least one, each laid over the common values. Call with the root context. */}}
{{- define "tollgate.products" -}}
{{- $common := .Values.tollgate -}}
{{- $products := list -}}
{{- $given := $common.products | default (list (dict)) -}}
{{- range $index, $own := $given -}}
  {{- $product := mergeOverwrite (deepCopy (omit $common "products" "global")) (deepCopy $own) -}}
  {{- $name := $own.name | default (ternary "tollgate" (printf "tollgate-%d" $index) (eq (len $given) 1)) -}}
  {{- $_ := set $product "name" $name -}}
  {{- if and (gt $index 0) (not $own.ports) -}}
    {{- $step := mul 10 $index -}}
    {{- $_ := set $product "ports" (dict "probe" (add $common.ports.probe $step) "app" (add $common.ports.app $step)) -}}
  {{- end -}}
  {{- $products = append $products $product -}}
{{- end -}}
{{- toYaml (dict "products" $products) -}}
{{- end -}}

{{/* The image of one product. */}}
{{- define "tollgate.image" -}}
{{- if not (or .image.digest .image.tag) -}}
{{- fail "tollgate: set tollgate.image.tag, or tollgate.image.digest" -}}
{{- end -}}
{{- with .image.registry }}{{ . }}/{{ end -}}
{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag }}{{ end }}
{{- end -}}

{{/*
The settings of one product, as environment. What equals tollgate's own default is left out: a key that the seller's file in the
image sets must stand nowhere else.
*/}}
{{- define "tollgate.env" -}}
- name: TOLLGATE_POD_UID
  valueFrom:
    fieldRef: { fieldPath: metadata.uid }
{{- if ne (toString .ports.probe) "19180" }}
- name: TOLLGATE_PROBE_ADDR
  value: {{ printf "[::]:%v" .ports.probe | quote }}
{{- end }}
{{- if ne (toString .ports.app) "19181" }}
- name: TOLLGATE_APP_ADDR
  value: {{ printf "127.0.0.1:%v" .ports.app | quote }}
{{- end }}
{{- if .productCode }}
- name: TOLLGATE_MODE
  value: {{ .mode | quote }}
- name: TOLLGATE_PRODUCT_CODE
  value: {{ .productCode | quote }}
{{- end }}
{{- if ne .shutdownGrace "25s" }}
- name: TOLLGATE_SHUTDOWN_GRACE
  value: {{ .shutdownGrace | quote }}
{{- end }}
{{- if eq .state.type "none" }}
- name: TOLLGATE_STATE_DIR
  value: none
{{- end }}
{{- /* A native sidecar is stopped after the application has ended: there is nobody left to wait for. */}}
{{- if and (eq .gate "native") (ne .state.type "none") (not (hasKey .settings "drain_quiet")) }}
- name: TOLLGATE_DRAIN_QUIET
  value: 0s
{{- end }}
{{- if .region }}
- name: AWS_REGION
  value: {{ .region | quote }}
{{- end }}
{{- if .caConfigMap }}
- name: AWS_CA_BUNDLE
  value: /etc/tollgate-ca/ca.crt
{{- end }}
{{- with .proxy.https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .proxy.http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .proxy.noProxy }}
- name: NO_PROXY
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := .settings }}
- name: TOLLGATE_{{ $name | upper }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What the sidecar may do: nothing. */}}
{{- define "tollgate.securityContext" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
privileged: false
readOnlyRootFilesystem: true
runAsGroup: 65532
runAsNonRoot: true
runAsUser: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "tollgate.volumeMounts" -}}
{{- if ne .state.type "none" }}
- name: {{ .name }}-state
  mountPath: /var/lib/tollgate
{{- end }}
{{- if .caConfigMap }}
- name: {{ .name }}-ca
  mountPath: /etc/tollgate-ca
  readOnly: true
{{- end }}
{{- with .extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The sidecar of one product. */}}
{{- define "tollgate.container" -}}
name: {{ .name }}
image: {{ include "tollgate.image" . | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
args: [run]
ports:
  - name: {{ printf "gate-%v" .ports.probe | quote }}
    containerPort: {{ .ports.probe }}
    protocol: TCP
env:
  {{- include "tollgate.env" . | nindent 2 }}
{{- if eq .gate "native" }}
restartPolicy: Always
startupProbe:
  exec: { command: [/tollgate, probe, startup] }
  periodSeconds: {{ .probes.startupPeriodSeconds }}
  timeoutSeconds: 2
  failureThreshold: {{ .probes.startupFailureThreshold }}
{{- end }}
livenessProbe:
  httpGet: { path: /livez, port: {{ .ports.probe }} }
  periodSeconds: 10
  timeoutSeconds: 2
  failureThreshold: 6
{{- if .probes.sidecarReadiness }}
readinessProbe:
  httpGet: { path: /readyz, port: {{ .ports.probe }} }
  periodSeconds: 5
  timeoutSeconds: 2
{{- end }}
terminationMessagePolicy: FallbackToLogsOnError
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- include "tollgate.securityContext" . | nindent 2 }}
{{- with include "tollgate.volumeMounts" . | trim }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tollgate.volumes" -}}
{{- if eq .state.type "emptyDir" }}
- name: {{ .name }}-state
  emptyDir: { sizeLimit: {{ .state.sizeLimit }} }
{{- else if eq .state.type "persistentVolumeClaim" }}
- name: {{ .name }}-state
  persistentVolumeClaim: { claimName: {{ required "tollgate.state.claimName names the PersistentVolumeClaim" .state.claimName }} }
{{- end }}
{{- if .caConfigMap }}
- name: {{ .name }}-ca
  configMap: { name: {{ .caConfigMap }} }
{{- end }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
