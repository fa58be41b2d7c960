{{/* The image of one product. */}}
{{- define "tollgate.image" -}}
{{- with .image.registry }}{{ . }}/{{ end -}}
{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag }}{{ end }}
{{- end -}}

{{/* Which pod this is: for the sidecar, and for the await that believes no other pod's sidecar. */}}
{{- define "tollgate.podUid" -}}
- name: TOLLGATE_POD_UID
  valueFrom:
    fieldRef: { fieldPath: metadata.uid }
{{- end -}}

{{/*
The settings of one product, as environment. What equals tollgate's own default is left out: a key that the seller's file in the
image sets must stand nowhere else.
*/}}
{{- define "tollgate.env" -}}
{{ include "tollgate.podUid" . }}
{{- if ne (toString .ports.probe) "19180" }}
- name: TOLLGATE_PROBE_ADDR
  value: {{ printf "[::]:%v" .ports.probe | quote }}
{{- end }}
{{- if ne (toString .ports.app) "19181" }}
- name: TOLLGATE_APP_ADDR
  value: {{ printf "127.0.0.1:%v" .ports.app | quote }}
{{- end }}
{{- if or .productCode .productId }}
- name: TOLLGATE_MODE
  value: {{ .mode | quote }}
{{- end }}
{{- with .productCode }}
- name: TOLLGATE_PRODUCT_CODE
  value: {{ . | quote }}
{{- end }}
{{- with .productId }}
- name: TOLLGATE_PRODUCT_ID
  value: {{ . | quote }}
{{- end }}
{{- if and .productId (ne .licenseModel "check") }}
- name: TOLLGATE_LICENSE_MODEL
  value: {{ .licenseModel | quote }}
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
{{- if and (eq .gate "native") (has .mode (list "metered" "saas")) (not (hasKey .settings "drain_quiet")) }}
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
{{- with .licenseSecret }}
- name: AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE
  value: /var/run/secrets/product-license/license_token
- name: AWS_ROLE_ARN
  valueFrom:
    secretKeyRef: { name: {{ . | quote }}, key: iam_role }
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

{{/* What our containers may do: nothing. */}}
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

{{/* What all our containers have in common: image, and requests and limits of their own. */}}
{{- define "tollgate.common" -}}
image: {{ include "tollgate.image" . | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
{{- with .resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "tollgate.securityContext" . | nindent 2 }}
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
{{- if .licenseSecret }}
- name: {{ .name }}-license
  mountPath: /var/run/secrets/product-license
  readOnly: true
{{- end }}
{{- with .extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The sidecar of one product. */}}
{{- define "tollgate.container" -}}
name: {{ .name }}
{{ include "tollgate.common" . }}
args: [run]
ports:
  - name: {{ printf "gate-%v" .ports.probe | quote }}
    containerPort: {{ .ports.probe }}
    protocol: TCP
env:
  {{- include "tollgate.env" . | nindent 2 }}
{{- if eq .gate "native" }}
restartPolicy: Always
{{- end }}
{{- /* It finds a process that hangs, in 62 to 92 s. The gate of another container does not wait for it, and each question costs
CPU for as long as the pod lives. */}}
livenessProbe:
  httpGet: { path: /livez, port: {{ .ports.probe }} }
  periodSeconds: 30
  timeoutSeconds: 2
  failureThreshold: 3
{{- if or .probes.sidecarReadiness (eq .gate "readiness") }}
readinessProbe:
  httpGet: { path: /readyz, port: {{ .ports.probe }} }
  periodSeconds: 5
  timeoutSeconds: 2
{{- end }}
{{- with include "tollgate.volumeMounts" . | trim }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The lock of the native form, after its sidecar: (dict "product" … "again" …). No startup probe can be it: the kubelet of 1.35.4 and
later takes a container that ran before its own restart for started. `again` says that the pod's containers are restarted: then one
restart puts the reason under Last State; where it is not, an end would be the end of the pod.
*/}}
{{- define "tollgate.lock" -}}
{{- $product := .product -}}
name: {{ $product.await }}
{{ include "tollgate.common" $product }}
args:
  - await
  {{- if ne (toString $product.ports.probe) "19180" }}
  - --probe-addr
  - {{ printf "127.0.0.1:%v" $product.ports.probe | quote }}
  {{- end }}
  {{- if or .again (eq $product.refused "fail") }}
  - --refused-after
  - 30s
  {{- end }}
env:
  {{- include "tollgate.podUid" . | nindent 2 }}
{{- end -}}

{{- define "tollgate.volumes" -}}
{{- if eq .state.type "emptyDir" }}
- name: {{ .name }}-state
  emptyDir: { sizeLimit: {{ .state.sizeLimit }} }
{{- else if eq .state.type "persistentVolumeClaim" }}
- name: {{ .name }}-state
  persistentVolumeClaim: { claimName: {{ .state.claimName | quote }} }
{{- end }}
{{- if .caConfigMap }}
- name: {{ .name }}-ca
  configMap: { name: {{ .caConfigMap | quote }} }
{{- end }}
{{- with .licenseSecret }}
- name: {{ $.name }}-license
  secret:
    secretName: {{ . | quote }}
    items: [{ key: license_token, path: license_token }]
{{- end }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The claim that a StatefulSet makes for each of its pods. */}}
{{- define "tollgate.volumeClaim" -}}
metadata:
  name: {{ .name }}-state
spec:
  accessModes: [ReadWriteOnce]
  {{- with .state.storageClassName }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests: { storage: {{ .state.sizeLimit }} }
{{- end -}}
