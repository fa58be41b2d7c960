{{/*
One include puts the gate in front of a workload:

  {{ include "tollgate.workload" (list . "my-product.deployment") }}

where "my-product.deployment" is the named template that renders your Deployment, StatefulSet, DaemonSet, Job or CronJob. Other
manifests that it renders, such as a Service, are left unchanged. A third item has values for this workload only, and the
dependency's alias:

  {{ include "tollgate.workload" (list . "my-product.worker" (dict "gate" "exec" "command" (list "/worker"))) }}
*/}}
{{- define "tollgate.workload" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $options := slice . 2 | first | default dict -}}
{{- include "tollgate.options" (dict "options" $options "known" (list "alias" "gate" "position" "refused" "container" "command" "mode" "productCode" "productId" "licenseModel" "region" "settings" "state")) -}}
{{- $values := include "tollgate.values" (dict "root" $root "alias" $options.alias) | fromYaml -}}
{{- $products := (include "tollgate.products" (dict "values" $values "options" $options) | fromYaml).products -}}
{{- $gated := 0 -}}
{{- range $text := regexSplit "(?m)^---.*$" (include $name $root) -1 -}}
  {{- $manifest := fromYaml $text -}}
  {{- if $manifest.Error -}}
    {{- fail (printf "tollgate: %s is no YAML: %s" $name $manifest.Error) -}}
  {{- end -}}
  {{- if has $manifest.kind (list "Deployment" "StatefulSet" "DaemonSet" "Job" "CronJob") -}}
    {{- $gated = add1 $gated -}}
    {{- include "tollgate.gate" (dict "root" $root "values" $values "products" $products "manifest" $manifest) -}}
    {{- printf "\n---\n%s" (toYaml $manifest) -}}
  {{- else if $manifest -}}
    {{- printf "\n---\n%s" (trim $text) -}}
  {{- end -}}
{{- end -}}
{{- if not $gated -}}
  {{- fail (printf "tollgate: %s renders nothing to gate; it must be a Deployment, StatefulSet, DaemonSet, Job or CronJob" $name) -}}
{{- end -}}
{{- end -}}

{{/* Puts the gate into one manifest, in place; prints nothing. */}}
{{- define "tollgate.gate" -}}
{{- $manifest := .manifest -}}
{{- $values := .values -}}
{{- $title := printf "%s %v" $manifest.kind (($manifest.metadata | default dict).name | default "without a name") -}}
{{- $spec := $manifest.spec | default dict -}}
{{- $job := eq $manifest.kind "Job" | ternary $spec dict -}}
{{- if eq $manifest.kind "CronJob" -}}
  {{- $job = ($spec.jobTemplate | default dict).spec | default dict -}}
{{- end -}}
{{- $template := (has $manifest.kind (list "Job" "CronJob") | ternary $job $spec).template | default dict -}}
{{- $pod := $template.spec | default dict -}}
{{- if not $pod.containers -}}
  {{- fail (printf "tollgate: the pod template of %s has no containers to gate" $title) -}}
{{- end -}}
{{- range concat ($pod.initContainers | default list) $pod.containers -}}
  {{- if not (kindIs "map" .) -}}
    {{- fail (printf "tollgate: a container of %s is no map" $title) -}}
  {{- end -}}
{{- end -}}
{{- $workload := dict "root" .root "title" $title "kind" $manifest.kind "spec" $spec "job" $job "template" $template "pod" $pod -}}
{{- include "tollgate.check" (dict "workload" $workload "values" $values "products" .products) -}}
{{- $first := list -}}
{{- $last := list -}}
{{- $sold := .products -}}
{{- range $sold -}}
  {{- if eq .gate "native" -}}
    {{- $again := has $manifest.kind (list "Deployment" "StatefulSet" "DaemonSet") -}}
    {{- $lock := include "tollgate.lock" (dict "product" . "again" $again) | fromYaml -}}
    {{- $pair := list (include "tollgate.container" . | fromYaml) $lock -}}
    {{- if eq .position "first" -}}
      {{- $first = concat $first $pair -}}
    {{- else -}}
      {{- $last = concat $last $pair -}}
    {{- end -}}
  {{- else -}}
    {{- include "tollgate.beside" (dict "product" . "pod" $pod) -}}
  {{- end -}}
  {{- include "tollgate.addVolumes" (dict "product" . "workload" $workload) -}}
  {{- include "tollgate.addSocket" (dict "product" . "products" $sold "pod" $pod) -}}
  {{- if eq .refused "fail" -}}
    {{- $policy := $job.podFailurePolicy | default dict -}}
    {{- $codes := dict "containerName" .await "operator" "In" "values" (list 76 77 78) -}}
    {{- $rule := dict "action" "FailJob" "onExitCodes" $codes -}}
    {{- $_ := set $policy "rules" (prepend ($policy.rules | default list) $rule) -}}
    {{- $_ := set $job "podFailurePolicy" $policy -}}
  {{- end -}}
  {{- if and (eq $manifest.kind "Deployment") (or (eq .mode "saas") (eq .state.type "persistentVolumeClaim")) -}}
    {{- /* A rolling update would start the new writer while the old one runs, and wait for it. */ -}}
    {{- $_ := set $spec "strategy" (dict "type" "Recreate") -}}
  {{- else if and (eq $manifest.kind "Deployment") (eq .licenseModel "floating") -}}
    {{- /* By Kubernetes' default the new pod starts first. If every seat is taken, it would wait for a seat of the old pods, and
         the update would wait for it. */ -}}
    {{- $strategy := $spec.strategy | default dict -}}
    {{- if and (eq ($strategy.type | default "RollingUpdate") "RollingUpdate") (not $strategy.rollingUpdate) -}}
      {{- $_ := set $spec "strategy" (dict "type" "RollingUpdate" "rollingUpdate" (dict "maxSurge" 0 "maxUnavailable" "25%")) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- with concat $first ($pod.initContainers | default list) $last -}}
  {{- $_ := set $pod "initContainers" . -}}
{{- end -}}
{{- include "tollgate.pod" (dict "root" .root "products" .products "workload" $workload "values" $values) -}}
{{- include "tollgate.sound" (dict "products" .products "workload" $workload) -}}
{{- end -}}

{{/* The index of the main container that a product gates, among the pod's containers. */}}
{{- define "tollgate.main" -}}
{{- $product := .product -}}
{{- range $index, $container := .pod.containers -}}
  {{- if or (and (not $product.container) (eq $index 0)) (eq (toString $container.name) $product.container) -}}
    {{- $index -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/*
Puts one product's sidecar beside the main containers. With `readiness` the sidecar's own readinessProbe asks the gate. A pod is
ready when all its containers are, so the application's probe stays unchanged.
*/}}
{{- define "tollgate.beside" -}}
{{- $product := .product -}}
{{- $pod := .pod -}}
{{- if eq $product.gate "exec" -}}
  {{- $main := index $pod.containers (include "tollgate.main" . | int) -}}
  {{- include "tollgate.exec" (dict "product" $product "pod" $pod "main" $main) -}}
{{- end -}}
{{- $_ := set $pod "containers" (append $pod.containers (include "tollgate.container" $product | fromYaml)) -}}
{{- end -}}

{{/*
Puts `tollgate await` before the main container's command, once for each product. The binary comes from the sidecar's image through a
shared volume; the buyer can replace it, unlike one that is built into the product's image.
*/}}
{{- define "tollgate.exec" -}}
{{- $product := .product -}}
{{- $pod := .pod -}}
{{- $main := .main -}}
{{- $binary := "/opt/tollgate/tollgate" -}}
{{- $mount := dict "name" "tollgate-bin" "mountPath" "/opt/tollgate" -}}
{{- $installed := false -}}
{{- range $pod.initContainers -}}
  {{- $installed = or $installed (eq (toString .name) "tollgate-install") -}}
{{- end -}}
{{- if not $installed -}}
  {{- $install := include "tollgate.common" $product | fromYaml -}}
  {{- $_ := set $install "name" "tollgate-install" -}}
  {{- $_ := set $install "args" (list "install" "/opt/tollgate") -}}
  {{- $_ := set $install "volumeMounts" (list $mount) -}}
  {{- $_ := set $pod "initContainers" (append ($pod.initContainers | default list) $install) -}}
  {{- /* Room for a build that is not optimised, too, because a pod above the limit is evicted. */ -}}
  {{- $_ := set $pod "volumes" (append ($pod.volumes | default list) (dict "name" "tollgate-bin" "emptyDir" (dict "sizeLimit" "128Mi"))) -}}
{{- end -}}
{{- $command := $product.command | default $main.command -}}
{{- if eq (first ($main.command | default (list ""))) $binary -}}
  {{- $command = $main.command -}}
{{- else -}}
  {{- $_ := set $main "volumeMounts" (append ($main.volumeMounts | default list) (merge (dict "readOnly" true) $mount)) -}}
{{- end -}}
{{- $await := list $binary "await" "--probe-addr" (printf "127.0.0.1:%v" $product.ports.probe) "--" -}}
{{- $_ := set $main "command" (concat $await $command) -}}
{{- end -}}

{{/*
Gives the main containers one product's socket: its folder, in which they can connect but change nothing, and its address, unless
they have one or the pod reports to several products.
*/}}
{{- define "tollgate.addSocket" -}}
{{- $product := .product -}}
{{- $sidecars := list -}}
{{- range .products -}}
  {{- $sidecars = append $sidecars .name -}}
{{- end -}}
{{- if $product.appSocket -}}
  {{- $mount := dict "name" (printf "%s-socket" $product.name) "mountPath" (include "tollgate.socketFolder" $product) "readOnly" true -}}
  {{- $address := dict "name" "TOLLGATE_APP_ADDR" "value" (include "tollgate.socket" $product) -}}
  {{- range $container := .pod.containers -}}
    {{- if not (has $container.name $sidecars) -}}
      {{- $_ := set $container "volumeMounts" (append ($container.volumeMounts | default list) $mount) -}}
      {{- $given := ne (len $sidecars) 1 -}}
      {{- range $container.env -}}
        {{- $given = or $given (eq .name "TOLLGATE_APP_ADDR") -}}
      {{- end -}}
      {{- if not $given -}}
        {{- $_ := set $container "env" (append ($container.env | default list) $address) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Adds one product's volumes; a volume that exists already is the same for all products, and is shared. */}}
{{- define "tollgate.addVolumes" -}}
{{- $pod := .workload.pod -}}
{{- $product := .product -}}
{{- range include "tollgate.volumes" $product | fromYamlArray -}}
  {{- $volume := . -}}
  {{- $shared := false -}}
  {{- range $pod.volumes -}}
    {{- $shared = or $shared (deepEqual . $volume) -}}
  {{- end -}}
  {{- if not $shared -}}
    {{- $_ := set $pod "volumes" (append ($pod.volumes | default list) $volume) -}}
  {{- end -}}
{{- end -}}
{{- if eq $product.state.type "volumeClaimTemplate" -}}
  {{- $spec := .workload.spec -}}
  {{- $claim := include "tollgate.volumeClaim" $product | fromYaml -}}
  {{- $_ := set $spec "volumeClaimTemplates" (append ($spec.volumeClaimTemplates | default list) $claim) -}}
{{- end -}}
{{- end -}}
