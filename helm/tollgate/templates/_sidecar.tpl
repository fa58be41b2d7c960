{{/* The image of one product. */}}
{{- define "tollgate.image" -}}
{{- with .image.registry }}{{ . }}/{{ end -}}
{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag }}{{ end }}
{{- end -}}

{{/* The pod's identity: for the sidecar, and for `await`, which accepts only its own pod's sidecar. */}}
{{- define "tollgate.podUid" -}}
- name: TOLLGATE_POD_UID
  valueFrom:
    fieldRef: { fieldPath: metadata.uid }
{{- end -}}

{{/* The folder of the socket by which the application reports, the same in all containers; and the socket's address. */}}
{{- define "tollgate.socketFolder" -}}/run/{{ .name }}{{- end -}}
{{- define "tollgate.socket" -}}unix:{{ include "tollgate.socketFolder" . }}/app.sock{{- end -}}

{{/*
The settings of one product, as environment variables. A value that equals tollgate's default is left out, because a key that
the seller's file in the image sets must not be set elsewhere.
*/}}
{{- define "tollgate.env" -}}
{{ include "tollgate.podUid" . }}
{{- if ne (toString .ports.probe) "19180" }}
- name: TOLLGATE_PROBE_ADDR
  value: {{ printf "[::]:%v" .ports.probe | quote }}
{{- end }}
{{- if .appSocket }}
- name: TOLLGATE_APP_ADDR
  value: {{ include "tollgate.socket" . | quote }}
{{- else if ne (toString .ports.app) "19181" }}
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
{{- /* Kubernetes stops a native sidecar after the application has ended, so no more usage comes. */}}
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

{{/* The security context of tollgate's containers, without any privilege. */}}
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

{{/* The common parts of tollgate's containers: image, requests and limits. */}}
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
{{- if .appSocket }}
- name: {{ .name }}-socket
  mountPath: {{ include "tollgate.socketFolder" . }}
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
{{- /* It detects a hung process in 62 to 92 s. No other container's gate waits for it, and each probe costs CPU for as long as
         the pod lives. */}}
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
The lock of the native form, after its sidecar: (dict "product" … "again" …). A startup probe is not safe: from 1.35.4 on the
kubelet counts a container that ran before the kubelet's own restart as started. `again` says that the pod's containers are
restarted: then one restart puts the reason under Last State. Without restarts the end of the container would end the pod.
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
{{- /* In memory: a socket has no content, and the cluster autoscaler would not remove a node for a volume on its disk. */}}
{{- if .appSocket }}
- name: {{ .name }}-socket
  emptyDir: { medium: Memory, sizeLimit: 1Mi }
{{- end }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volume claim that a StatefulSet makes for each of its pods. */}}
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
