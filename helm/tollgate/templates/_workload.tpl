{{/*
One include puts the gate in front of a workload:

  {{ include "tollgate.workload" (list . "my-product.deployment") }}

where "my-product.deployment" is the named template that renders your Deployment, StatefulSet, DaemonSet, Job or CronJob.
*/}}
{{- define "tollgate.workload" -}}
{{- $root := index . 0 -}}
{{- $manifest := include (index . 1) $root | fromYaml -}}
{{- if $manifest.Error -}}
  {{- fail (printf "tollgate: %s is no YAML: %s" (index . 1) $manifest.Error) -}}
{{- end -}}
{{- $template := dict -}}
{{- if eq $manifest.kind "CronJob" -}}
  {{- $template = $manifest.spec.jobTemplate.spec.template -}}
{{- else if has $manifest.kind (list "Deployment" "StatefulSet" "DaemonSet" "Job") -}}
  {{- $template = $manifest.spec.template -}}
{{- else -}}
  {{- fail (printf "tollgate: cannot gate a %s; it must be a Deployment, StatefulSet, DaemonSet, Job or CronJob" $manifest.kind) -}}
{{- end -}}
{{- $products := (include "tollgate.products" $root | fromYaml).products -}}
{{- include "tollgate.check" (dict "products" $products "manifest" $manifest) -}}
{{- range $products -}}
  {{- include "tollgate.join" (dict "product" . "template" $template) -}}
{{- end -}}
{{- include "tollgate.pod" (dict "products" $products "template" $template "account" $root.Values.tollgate.serviceAccount) -}}
{{- toYaml $manifest -}}
{{- end -}}

{{/* What cannot work is refused here rather than found in a cluster. */}}
{{- define "tollgate.check" -}}
{{- $manifest := .manifest -}}
{{- $names := list -}}
{{- range .products -}}
  {{- if has .name $names -}}
    {{- fail (printf "tollgate: two products have the name %s; set products[].name" .name) -}}
  {{- end -}}
  {{- $names = append $names .name -}}
  {{- if and (ne .mode "hourly") (eq .state.type "none") -}}
    {{- fail (printf "tollgate: mode %s keeps usage on disk: set tollgate.state.type to emptyDir (lost with the pod) or persistentVolumeClaim" .mode) -}}
  {{- end -}}
  {{- if and (eq .mode "saas") (or (has $manifest.kind (list "DaemonSet" "CronJob")) (gt (int ($manifest.spec.replicas | default 1)) 1)) -}}
    {{- fail "tollgate: mode saas has one writer for each product: run one replica of its own with a token, and let the application's replicas report to it" -}}
  {{- end -}}
  {{- if and (ne .gate "native") (has $manifest.kind (list "Job" "CronJob")) (not (get .settings "quit")) -}}
    {{- fail "tollgate: a Job ends when all its containers have: use gate native, or set tollgate.settings.quit and let the application POST /v1/quit" -}}
  {{- end -}}
  {{- if and (eq .gate "exec") (not .command) -}}
    {{- fail "tollgate: with gate exec the main container's command must stand in tollgate.command: a chart cannot read it from the image" -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Puts one product's sidecar into the pod. */}}
{{- define "tollgate.join" -}}
{{- $product := .product -}}
{{- $spec := .template.spec -}}
{{- $sidecar := include "tollgate.container" $product | fromYaml -}}
{{- $inits := $spec.initContainers | default list -}}
{{- if eq $product.gate "native" -}}
  {{- /* The last one: billing begins when it registers, and what comes before it may take its time. */ -}}
  {{- $_ := set $spec "initContainers" (append $inits $sidecar) -}}
{{- else -}}
  {{- $main := dict -}}
  {{- range $spec.containers -}}
    {{- if or (eq .name $product.container) (and (not $product.container) (not $main)) -}}
      {{- $main = . -}}
    {{- end -}}
  {{- end -}}
  {{- if not $main -}}
    {{- fail (printf "tollgate: there is no container named %s to gate" $product.container) -}}
  {{- end -}}
  {{- if eq $product.gate "readiness" -}}
    {{- if $main.readinessProbe -}}
      {{- fail (printf "tollgate: container %s has a readinessProbe of its own; use gate native or exec" $main.name) -}}
    {{- end -}}
    {{- $probe := dict "httpGet" (dict "path" "/readyz" "port" $product.ports.probe) "periodSeconds" 5 "timeoutSeconds" 2 -}}
    {{- $_ := set $main "readinessProbe" $probe -}}
  {{- else -}}
    {{- /* The binary comes from the sidecar's image; the buyer can replace it, unlike one that is built into the product's image. */ -}}
    {{- $bin := printf "%s-bin" $product.name -}}
    {{- $mount := dict "name" $bin "mountPath" "/opt/tollgate" -}}
    {{- $install := dict "name" (printf "%s-install" $product.name) "image" $sidecar.image "imagePullPolicy" $sidecar.imagePullPolicy
        "args" (list "install" "/opt/tollgate") "volumeMounts" (list $mount) "securityContext" $sidecar.securityContext "resources" $sidecar.resources
        "terminationMessagePolicy" "FallbackToLogsOnError" -}}
    {{- $_ := set $spec "initContainers" (append $inits $install) -}}
    {{- $_ := set $spec "volumes" (append ($spec.volumes | default list) (dict "name" $bin "emptyDir" (dict "sizeLimit" "32Mi"))) -}}
    {{- $_ := set $main "volumeMounts" (append ($main.volumeMounts | default list) (merge (dict "readOnly" true) $mount)) -}}
    {{- $await := list "/opt/tollgate/tollgate" "await" "--probe-addr" (printf "127.0.0.1:%v" $product.ports.probe) "--" -}}
    {{- $_ := set $main "command" (concat $await $product.command) -}}
  {{- end -}}
  {{- $_ := set $spec "containers" (append $spec.containers $sidecar) -}}
{{- end -}}
{{- $volumes := include "tollgate.volumes" $product | trim -}}
{{- if $volumes -}}
  {{- $_ := set $spec "volumes" (concat ($spec.volumes | default list) (fromYamlArray $volumes)) -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration such as 20s or 1m. */}}
{{- define "tollgate.seconds" -}}
{{- if hasSuffix "m" . -}}{{ mul (trimSuffix "m" . | int) 60 }}{{- else -}}{{ trimSuffix "s" . | int }}{{- end -}}
{{- end -}}

{{/* What concerns the whole pod. */}}
{{- define "tollgate.pod" -}}
{{- $template := .template -}}
{{- $spec := $template.spec -}}
{{- with .account.name -}}
  {{- $_ := set $spec "serviceAccountName" . -}}
{{- end -}}
{{- if not (hasKey $spec "automountServiceAccountToken") -}}
  {{- /* IRSA projects a token of its own; nothing here speaks to Kubernetes. */ -}}
  {{- $_ := set $spec "automountServiceAccountToken" false -}}
{{- end -}}
{{- $context := $spec.securityContext | default dict -}}
{{- if not (hasKey $context "fsGroup") -}}
  {{- /* Makes the web identity token and the state volume readable for the sidecar's user. */ -}}
  {{- $_ := set $context "fsGroup" 65532 -}}
{{- end -}}
{{- $_ := set $spec "securityContext" $context -}}
{{- if not $template.metadata -}}
  {{- $_ := set $template "metadata" dict -}}
{{- end -}}
{{- $annotations := $template.metadata.annotations | default dict -}}
{{- $ports := list -}}
{{- $needed := 0 -}}
{{- range .products -}}
  {{- if eq .state.type "emptyDir" -}}
    {{- /* Without it the cluster autoscaler keeps the node for ever; what is lost then is stated in SEMANTICS. */ -}}
    {{- $_ := set $annotations "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" (printf "%s-state" .name) -}}
  {{- end -}}
  {{- $ports = concat $ports (list (toString .ports.probe)) -}}
  {{- $own := add (include "tollgate.seconds" .shutdownGrace | int) .applicationStopSeconds .terminationGraceExtraSeconds -}}
  {{- $needed = max $needed $own -}}
  {{- if eq .mesh "istio" -}}
    {{- $_ := set $annotations "traffic.sidecar.istio.io/excludeInboundPorts" (join "," $ports) -}}
    {{- $_ := set $annotations "traffic.sidecar.istio.io/excludeOutboundPorts" "443" -}}
  {{- else if eq .mesh "linkerd" -}}
    {{- $_ := set $annotations "config.linkerd.io/skip-inbound-ports" (join "," $ports) -}}
    {{- $_ := set $annotations "config.linkerd.io/skip-outbound-ports" "443" -}}
  {{- end -}}
{{- end -}}
{{- if $annotations -}}
  {{- $_ := set $template.metadata "annotations" $annotations -}}
{{- end -}}
{{- $_ := set $spec "terminationGracePeriodSeconds" (max $needed ($spec.terminationGracePeriodSeconds | default 0 | int)) -}}
{{- end -}}
