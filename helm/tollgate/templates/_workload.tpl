{{/*
One include puts the gate in front of a workload:

  {{ include "tollgate.workload" (list . "my-product.deployment") }}

where "my-product.deployment" is the named template that renders your Deployment, StatefulSet, DaemonSet, Job or CronJob. What else it
renders, such as a Service, passes through as it is.
*/}}
{{- define "tollgate.workload" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $gated := 0 -}}
{{- range $text := regexSplit "(?m)^---.*$" (include $name $root) -1 -}}
  {{- $manifest := fromYaml $text -}}
  {{- if $manifest.Error -}}
    {{- fail (printf "tollgate: %s is no YAML: %s" $name $manifest.Error) -}}
  {{- end -}}
  {{- if has $manifest.kind (list "Deployment" "StatefulSet" "DaemonSet" "Job" "CronJob") -}}
    {{- $gated = add1 $gated -}}
    {{- include "tollgate.gate" (dict "root" $root "manifest" $manifest) -}}
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
{{- $template := ternary $manifest.spec.template ((($manifest.spec.jobTemplate | default dict).spec | default dict).template) (ne $manifest.kind "CronJob") -}}
{{- $products := (include "tollgate.products" .root | fromYaml).products -}}
{{- include "tollgate.check" (dict "products" $products "manifest" $manifest "spec" $template.spec) -}}
{{- range $products -}}
  {{- include "tollgate.join" (dict "product" . "template" $template) -}}
  {{- if and (eq .mode "saas") (eq $manifest.kind "Deployment") -}}
    {{- /* A rolling update would run the new writer beside the old one. */ -}}
    {{- $_ := set $manifest.spec "strategy" (dict "type" "Recreate") -}}
  {{- end -}}
{{- end -}}
{{- include "tollgate.pod" (dict "products" $products "template" $template "values" .root.Values.tollgate) -}}
{{- end -}}

{{/* What cannot work is refused here rather than found in a cluster. */}}
{{- define "tollgate.check" -}}
{{- $manifest := .manifest -}}
{{- $names := list -}}
{{- range concat (.spec.initContainers | default list) .spec.containers -}}
  {{- $names = append $names .name -}}
{{- end -}}
{{- $taken := list -}}
{{- $readiness := 0 -}}
{{- range .products -}}
  {{- if has .name $names -}}
    {{- fail (printf "tollgate: two containers of the pod have the name %s; set products[].name" .name) -}}
  {{- end -}}
  {{- $names = append $names .name -}}
  {{- range $port := list .ports.probe .ports.app -}}
    {{- if has (toString $port) $taken -}}
      {{- fail (printf "tollgate: two products have the port %v; set products[].ports" $port) -}}
    {{- end -}}
    {{- $taken = append $taken (toString $port) -}}
  {{- end -}}
  {{- if and .productCode (ne .mode "hourly") (not .settings.dimensions) -}}
    {{- fail (printf "tollgate: mode %s needs the usage dimensions of the product: set tollgate.settings.dimensions, such as requests,gigabytes" .mode) -}}
  {{- end -}}
  {{- if eq .state.type "none" -}}
    {{- if ne .mode "hourly" -}}
      {{- fail (printf "tollgate: mode %s keeps usage on disk: set tollgate.state.type to emptyDir (lost with the pod) or persistentVolumeClaim" .mode) -}}
    {{- end -}}
    {{- if not (regexMatch "^0+(d|h|m|s|ms)$" (.settings.grace_period | default "0s")) -}}
      {{- fail "tollgate: grace_period is counted on disk, so that a restart does not start it again: set tollgate.state.type to emptyDir" -}}
    {{- end -}}
  {{- end -}}
  {{- if eq .mode "saas" -}}
    {{- $several := max (int ($manifest.spec.replicas | default 1)) (int ($manifest.spec.parallelism | default 1)) -}}
    {{- $rolling := and (eq $manifest.kind "Deployment") (ne (($manifest.spec.strategy | default dict).type | default "Recreate") "Recreate") -}}
    {{- if or (has $manifest.kind (list "DaemonSet" "CronJob")) (gt $several 1) $rolling -}}
      {{- fail "tollgate: mode saas has one writer for each product: run one replica of its own (strategy Recreate) with a token, and let the application's replicas report to it" -}}
    {{- end -}}
  {{- end -}}
  {{- if and (ne .gate "native") (has $manifest.kind (list "Job" "CronJob")) (ne (toString .settings.quit) "true") (ne (toString .settings.quit) "on") -}}
    {{- fail "tollgate: a Job ends when all its containers have: use gate native, or set tollgate.settings.quit and let the application POST /v1/quit" -}}
  {{- end -}}
  {{- if and (eq .gate "exec") (not .command) -}}
    {{- fail "tollgate: with gate exec the main container's command must stand in tollgate.command: a chart cannot read it from the image" -}}
  {{- end -}}
  {{- if eq .gate "readiness" -}}
    {{- $readiness = add1 $readiness -}}
  {{- end -}}
{{- end -}}
{{- if gt $readiness 1 -}}
  {{- fail "tollgate: a readinessProbe asks one gate: with several products use gate native or exec for all but one" -}}
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
    {{- include "tollgate.await" (dict "product" $product "spec" $spec "main" $main "sidecar" $sidecar) -}}
  {{- end -}}
  {{- $_ := set $spec "containers" (append $spec.containers $sidecar) -}}
{{- end -}}
{{- $volumes := include "tollgate.volumes" $product | trim -}}
{{- if $volumes -}}
  {{- $_ := set $spec "volumes" (concat ($spec.volumes | default list) (fromYamlArray $volumes)) -}}
{{- end -}}
{{- end -}}

{{/*
Puts `tollgate await` before the main container's command, once for each product. The binary comes from the sidecar's image through a
shared volume; the buyer can replace it, unlike one that is built into the product's image.
*/}}
{{- define "tollgate.await" -}}
{{- $product := .product -}}
{{- $spec := .spec -}}
{{- $main := .main -}}
{{- $binary := "/opt/tollgate/tollgate" -}}
{{- $mount := dict "name" "tollgate-bin" "mountPath" "/opt/tollgate" -}}
{{- $installed := false -}}
{{- range $spec.volumes -}}
  {{- $installed = or $installed (eq .name "tollgate-bin") -}}
{{- end -}}
{{- if not $installed -}}
  {{- $install := dict "name" "tollgate-install" "image" .sidecar.image "imagePullPolicy" .sidecar.imagePullPolicy
      "args" (list "install" "/opt/tollgate") "volumeMounts" (list $mount) "securityContext" .sidecar.securityContext
      "resources" .sidecar.resources "terminationMessagePolicy" "FallbackToLogsOnError" -}}
  {{- $_ := set $spec "initContainers" (append ($spec.initContainers | default list) $install) -}}
  {{- $_ := set $spec "volumes" (append ($spec.volumes | default list) (dict "name" "tollgate-bin" "emptyDir" (dict "sizeLimit" "32Mi"))) -}}
{{- end -}}
{{- $command := $product.command -}}
{{- if eq (first ($main.command | default (list ""))) $binary -}}
  {{- $command = $main.command -}}
{{- else -}}
  {{- $_ := set $main "volumeMounts" (append ($main.volumeMounts | default list) (merge (dict "readOnly" true) $mount)) -}}
{{- end -}}
{{- $await := list $binary "await" "--probe-addr" (printf "127.0.0.1:%v" $product.ports.probe) "--" -}}
{{- $_ := set $main "command" (concat $await $command) -}}
{{- end -}}

{{/* Seconds of a duration such as 20s, 2m or 1m30s. */}}
{{- define "tollgate.seconds" -}}
{{- $minutes := regexFind "[0-9]+m" . | trimSuffix "m" | int -}}
{{- $seconds := regexFind "[0-9]+s" . | trimSuffix "s" | int -}}
{{- add (mul 60 $minutes) $seconds -}}
{{- end -}}

{{/* Adds items to a list in an annotation, to those that stand there: (dict "annotations" . "name" "…" "items" (list …)). */}}
{{- define "tollgate.annotate" -}}
{{- $present := splitList "," (get .annotations .name | default "") -}}
{{- $_ := set .annotations .name (concat $present .items | compact | uniq | join ",") -}}
{{- end -}}

{{/* The ports that the calls to AWS leave by: HTTPS, or the proxy's. Space-separated. */}}
{{- define "tollgate.egress" -}}
443 {{- range list .proxy.https .proxy.http -}}
  {{- with regexFind ":[0-9]+/?$" . }} {{ . | trimPrefix ":" | trimSuffix "/" }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* What concerns the whole pod. */}}
{{- define "tollgate.pod" -}}
{{- $template := .template -}}
{{- $spec := $template.spec -}}
{{- $values := .values -}}
{{- with $values.serviceAccount.name -}}
  {{- $_ := set $spec "serviceAccountName" . -}}
{{- end -}}
{{- if not (hasKey $spec "automountServiceAccountToken") -}}
  {{- /* IRSA projects a token of its own; nothing here speaks to Kubernetes. */ -}}
  {{- $_ := set $spec "automountServiceAccountToken" false -}}
{{- end -}}
{{- if not $template.metadata -}}
  {{- $_ := set $template "metadata" dict -}}
{{- end -}}
{{- $annotations := $template.metadata.annotations | default dict -}}
{{- $ports := list -}}
{{- $egress := list -}}
{{- $inTurn := 0 -}}
{{- $atOnce := 0 -}}
{{- range .products -}}
  {{- if eq .state.type "emptyDir" -}}
    {{- /* Without it the cluster autoscaler keeps the node for ever; what is lost then is stated in SEMANTICS. */ -}}
    {{- $evict := dict "annotations" $annotations "name" "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" -}}
    {{- include "tollgate.annotate" (set $evict "items" (list (printf "%s-state" .name))) -}}
  {{- end -}}
  {{- if eq .state.type "persistentVolumeClaim" -}}
    {{- /* A volume belongs to root until the pod has an fsGroup. Only here: it would change the group of the application's volumes too. */ -}}
    {{- $context := $spec.securityContext | default dict -}}
    {{- if not (hasKey $context "fsGroup") -}}
      {{- $_ := set $context "fsGroup" 65532 -}}
    {{- end -}}
    {{- $_ := set $spec "securityContext" $context -}}
  {{- end -}}
  {{- $ports = append $ports (toString .ports.probe) -}}
  {{- $egress = concat $egress (splitList " " (include "tollgate.egress" .)) -}}
  {{- $grace := include "tollgate.seconds" .shutdownGrace | int -}}
  {{- if eq .gate "native" -}}
    {{- /* Native sidecars are stopped one after the other. */ -}}
    {{- $inTurn = add $inTurn $grace -}}
  {{- else -}}
    {{- $atOnce = max $atOnce $grace -}}
  {{- end -}}
{{- end -}}
{{- $mesh := get (dict "istio" "traffic.sidecar.istio.io/exclude%sPorts" "linkerd" "config.linkerd.io/skip-%s-ports") $values.mesh -}}
{{- if $mesh -}}
  {{- $in := ternary "Inbound" "inbound" (eq $values.mesh "istio") -}}
  {{- $out := ternary "Outbound" "outbound" (eq $values.mesh "istio") -}}
  {{- include "tollgate.annotate" (dict "annotations" $annotations "name" (printf $mesh $in) "items" $ports) -}}
  {{- include "tollgate.annotate" (dict "annotations" $annotations "name" (printf $mesh $out) "items" $egress) -}}
{{- end -}}
{{- if $annotations -}}
  {{- $_ := set $template.metadata "annotations" $annotations -}}
{{- end -}}
{{- /* The application's own time comes first; what follows must fit behind it, or the last usage is cut off. */ -}}
{{- $application := max ($spec.terminationGracePeriodSeconds | default 0 | int) (int $values.applicationStopSeconds) -}}
{{- $_ := set $spec "terminationGracePeriodSeconds" (add $application $inTurn $atOnce $values.terminationGraceExtraSeconds) -}}
{{- end -}}
