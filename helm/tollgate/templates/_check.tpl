{{/* Refuses values that cannot work, with a message that says what to do, before they fail in a cluster. */}}
{{- define "tollgate.check" -}}
{{- $workload := set .workload "account" .values.serviceAccount -}}
{{- include "tollgate.checkPod" . -}}
{{- range .products -}}
  {{- $in := dict "product" . "workload" $workload -}}
  {{- include "tollgate.checkGate" $in -}}
  {{- include "tollgate.checkLicense" $in -}}
  {{- include "tollgate.checkUsage" $in -}}
  {{- include "tollgate.checkWriter" $in -}}
  {{- include "tollgate.checkResources" . -}}
{{- end -}}
{{- end -}}

{{- define "tollgate.checkPod" -}}
{{- $values := .values -}}
{{- $title := .workload.title -}}
{{- $pod := .workload.pod -}}
{{- range $old, $_ := omit $values.probes "sidecarReadiness" -}}
  {{- fail (printf "tollgate: remove tollgate.probes.%s: the native form has no startup probe any more, its lock is the init container that runs tollgate await" $old) -}}
{{- end -}}
{{- $account := $values.serviceAccount -}}
{{- if and $account.roleArn (not $account.create) -}}
  {{- fail "tollgate: serviceAccount.roleArn is an annotation of the account that the chart makes: set tollgate.serviceAccount.create, or leave roleArn out and annotate your own account with eks.amazonaws.com/role-arn" -}}
{{- end -}}
{{- if and $account.create (eq $account.name "default") -}}
  {{- fail "tollgate: every namespace has the account default already: set tollgate.serviceAccount.name to another, or leave it out" -}}
{{- end -}}
{{- $own := $pod.serviceAccountName | default "" -}}
{{- if and $account.create (not $account.name) $own (ne $own .workload.root.Release.Name) -}}
  {{- fail (printf "tollgate: %s has the account %s: set tollgate.serviceAccount.name to the one that its pods are to use" $title $own) -}}
{{- end -}}
{{- if eq ((($pod.os | default dict).name) | default "linux") "windows" -}}
  {{- fail (printf "tollgate: %s runs on Windows, and tollgate is a Linux program: run it on Linux nodes" $title) -}}
{{- end -}}
{{- /* tollgate's ports, compared with each other and with those that the application declares. */ -}}
{{- $taken := dict -}}
{{- range concat ($pod.initContainers | default list) $pod.containers -}}
  {{- if not (kindIs "string" .name) -}}
    {{- fail (printf "tollgate: a container of %s has no name" $title) -}}
  {{- end -}}
  {{- $container := .name -}}
  {{- range .ports -}}
    {{- $_ := set $taken (toString .containerPort) (printf "container %s" $container) -}}
  {{- end -}}
{{- end -}}
{{- $sold := dict -}}
{{- range .products -}}
  {{- $which := include "tollgate.which" . -}}
  {{- with get $sold $which -}}
    {{- fail (printf "tollgate: %s has two sidecars for one product (%s), and AWS counts a product once in a pod: leave one out, or give it the image, the productCode or the productId of another" $title $which) -}}
  {{- end -}}
  {{- $_ := set $sold $which true -}}
  {{- range $port := ternary (list .ports.probe) (list .ports.probe .ports.app) .appSocket -}}
    {{- with get $taken (toString $port) -}}
      {{- fail (printf "tollgate: port %v is also that of %s: set tollgate.ports, or products[].ports, to free ones" $port .) -}}
    {{- end -}}
    {{- if gt (int $port) 65535 -}}
      {{- fail (printf "tollgate: %v is no port: set products[].ports, or a lower tollgate.ports" $port) -}}
    {{- end -}}
  {{- end -}}
  {{- $_ := set $taken (toString .ports.probe) (printf "product %s" .name) -}}
  {{- if not .appSocket -}}
    {{- if has (toString .ports.app) (keys $taken) -}}
      {{- fail (printf "tollgate: probe server and application server of product %s have the same port: set ports.app to another" .name) -}}
    {{- end -}}
    {{- $_ := set $taken (toString .ports.app) (printf "product %s" .name) -}}
  {{- end -}}
  {{- range $port := splitList " " (include "tollgate.egress" .) -}}
    {{- if gt (int $port) 65535 -}}
      {{- fail (printf "tollgate: %s is no port: correct it in tollgate.proxy or settings.endpoint_url" $port) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* The product of a sidecar: its code or its ID, or the image that contains it. */}}
{{- define "tollgate.which" -}}
{{- if .productCode -}}productCode {{ .productCode }}{{- else if .productId -}}productId {{ .productId }}{{- else -}}image {{ include "tollgate.image" . }}{{- end -}}
{{- end -}}

{{/* Image and gate of one product. */}}
{{- define "tollgate.checkGate" -}}
{{- $title := .workload.title -}}
{{- $pod := .workload.pod -}}
{{- $job := .workload.job -}}
{{- $jobs := has .workload.kind (list "Job" "CronJob") -}}
{{- $main := include "tollgate.main" (dict "product" .product "pod" $pod) -}}
{{- with .product -}}
{{- if not .image.repository -}}
  {{- fail "tollgate: set tollgate.image.repository to that of your gate" -}}
{{- end -}}
{{- if not (or .image.digest .image.tag) -}}
  {{- fail "tollgate: set tollgate.image.tag, or tollgate.image.digest" -}}
{{- end -}}
{{- if and (ne .gate "native") $jobs (not (has (toString .settings.quit) (list "true" "on"))) -}}
  {{- fail "tollgate: a Job ends when all its containers have: use gate native, or set tollgate.settings.quit and let the application POST /v1/quit" -}}
{{- end -}}
{{- if and (ne .gate "native") (eq .position "first") -}}
  {{- fail (printf "tollgate: position first needs gate native: with gate %s the init containers run before the gate is asked" .gate) -}}
{{- end -}}
{{- if eq .gate "exec" -}}
  {{- if not $main -}}
    {{- fail (printf "tollgate: %s has no container named %s to gate: correct tollgate.container" $title .container) -}}
  {{- end -}}
  {{- if not (or .command (index $pod.containers (int $main)).command) -}}
    {{- fail "tollgate: with gate exec the main container's command must stand in tollgate.command, or in your template: a chart cannot read it from the image" -}}
  {{- end -}}
{{- end -}}
{{- if eq .refused "fail" -}}
  {{- if not $jobs -}}
    {{- fail (printf "tollgate: refused: fail is for a Job or CronJob, and the pods of %s would only be started again: leave refused out" $title) -}}
  {{- end -}}
  {{- if ne .gate "native" -}}
    {{- fail (printf "tollgate: refused: fail needs gate native, and that of %s is %s: leave refused out" $title .gate) -}}
  {{- end -}}
  {{- if ne ($pod.restartPolicy | default "") "Never" -}}
    {{- fail (printf "tollgate: refused: fail needs restartPolicy: Never in the pod template of %s: with OnFailure the kubelet would start the wait again" $title) -}}
  {{- end -}}
  {{- if eq ($job.podReplacementPolicy | default "Failed") "TerminatingOrFailed" -}}
    {{- fail (printf "tollgate: refused: fail renders a podFailurePolicy, which needs podReplacementPolicy: Failed in %s" $title) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of one product, and the values of mode contract. */}}
{{- define "tollgate.checkLicense" -}}
{{- $role := .workload.account.roleArn -}}
{{- with .product -}}
{{- if eq .mode "contract" -}}
  {{- if .productCode -}}
    {{- fail "tollgate: contract products are named by their product ID: set tollgate.productId, and leave productCode out" -}}
  {{- else if and .productId (not (contains "-" .productId)) -}}
    {{- fail (printf "tollgate: productId %s is a product code: write the product ID, which stands beside it in the AWS Marketplace Management Portal" .productId) -}}
  {{- else if and .licenseSecret (hasKey .settings "license_token_file") -}}
    {{- fail "tollgate: licenseSecret mounts the token and names its file: leave settings.license_token_file out" -}}
  {{- else if and .licenseSecret $role -}}
    {{- fail "tollgate: licenseSecret holds the role, too: leave serviceAccount.roleArn out outside AWS, and licenseSecret out on EKS" -}}
  {{- end -}}
{{- else -}}
  {{- $given := dict "productId" .productId "licenseSecret" .licenseSecret "licenseModel" (ternary "" .licenseModel (eq .licenseModel "check")) -}}
  {{- range $name, $value := $given -}}
    {{- if $value -}}
      {{- fail (printf "tollgate: %s is for mode contract, and that of product %s is %s: leave it out, or set tollgate.mode" $name $.product.name $.product.mode) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Settings of one product that its sidecar would refuse. */}}
{{- define "tollgate.checkUsage" -}}
{{- with .product -}}
{{- $settings := .settings -}}
{{- $ledger := has .mode (list "metered" "saas") -}}
{{- if and .productCode $ledger (not $settings.dimensions) -}}
  {{- fail (printf "tollgate: mode %s needs the usage dimensions of the product: set tollgate.settings.dimensions, such as requests,gigabytes" .mode) -}}
{{- end -}}
{{- if and .productCode (eq .mode "hourly") (not $settings.public_keys) -}}
  {{- fail "tollgate: mode hourly verifies AWS's signature: leave productCode to the seller.toml in your image, which names the key, or set tollgate.settings.public_keys to the folder of the product's keys" -}}
{{- end -}}
{{- if has .state.type (list "" "none") -}}
  {{- if eq .mode "contract" -}}
    {{- fail "tollgate: mode contract keeps its checkout on disk, so that a restart finds its seats again: leave tollgate.state.type out" -}}
  {{- else if $ledger -}}
    {{- fail (printf "tollgate: mode %s keeps usage on disk: set tollgate.state.type to emptyDir (lost with the pod), persistentVolumeClaim, or in a StatefulSet volumeClaimTemplate" .mode) -}}
  {{- end -}}
  {{- if not (regexMatch "^(0+(d|h|m|s|ms))+$" ($settings.grace_period | default "0s")) -}}
    {{- fail "tollgate: grace_period is counted on disk, so that a restart does not start it again: leave tollgate.state.type out" -}}
  {{- end -}}
{{- end -}}
{{- $grace := include "tollgate.seconds" .shutdownGrace | float64 -}}
{{- if lt $grace 5.0 -}}
  {{- fail "tollgate: shutdownGrace is at least 5s: less leaves no time to send the last usage" -}}
{{- else if gt $grace 3600.0 -}}
  {{- fail "tollgate: shutdownGrace is at most 1h: choose less" -}}
{{- end -}}
{{- with $settings.drain_quiet -}}
  {{- if ge (include "tollgate.seconds" . | float64) $grace -}}
    {{- fail (printf "tollgate: settings.drain_quiet (%s) leaves nothing of shutdownGrace to send usage: choose less" .) -}}
  {{- end -}}
{{- end -}}
{{- if and $settings.app_token_file (has (toString $settings.aws_door) (list "true" "on")) -}}
  {{- fail "tollgate: settings.aws_door cannot be used with app_token_file, for an AWS SDK sends its own Authorization: leave one out" -}}
{{- end -}}
{{- if and .appSocket (has (toString $settings.aws_door) (list "true" "on")) -}}
  {{- fail "tollgate: settings.aws_door cannot be used with appSocket, for an AWS SDK calls no Unix socket: leave one out" -}}
{{- end -}}
{{- if and (or $ledger $settings.ledger_bytes_max) (has .state.type (list "emptyDir" "volumeClaimTemplate")) -}}
  {{- $ledger := $settings.ledger_bytes_max | default "1GiB" -}}
  {{- if gt (include "tollgate.quantity" $ledger | float64) (include "tollgate.quantity" .state.sizeLimit | float64) -}}
    {{- fail (printf "tollgate: a ledger of %s does not fit into a volume of %s: set tollgate.state.sizeLimit above settings.ledger_bytes_max" $ledger .state.sizeLimit) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* One writer for a ledger, also during updates. */}}
{{- define "tollgate.checkWriter" -}}
{{- $title := .workload.title -}}
{{- $kind := .workload.kind -}}
{{- $spec := .workload.spec -}}
{{- $job := .workload.job -}}
{{- $root := .workload.root -}}
{{- $several := max (int ($spec.replicas | default 1)) (int ($job.parallelism | default 1)) -}}
{{- $rolling := and (eq $kind "Deployment") (ne (($spec.strategy | default dict).type | default "Recreate") "Recreate") -}}
{{- with .product -}}
{{- if eq .mode "saas" -}}
  {{- if or (has $kind (list "DaemonSet" "CronJob")) (gt $several 1) $rolling -}}
    {{- fail "tollgate: mode saas has one writer for each product: run one replica of its own (strategy Recreate) with a token, and let the application's replicas report to it" -}}
  {{- end -}}
  {{- include "tollgate.once" (dict "root" $root "what" (printf "one writer of mode saas (%s)" (include "tollgate.which" .)) "who" (printf "%s, product %s" $title .name) "remedy" "run one, and let both applications report to it") -}}
{{- end -}}
{{- if eq .state.type "volumeClaimTemplate" -}}
  {{- if ne $kind "StatefulSet" -}}
    {{- fail (printf "tollgate: only a StatefulSet makes a volume for each of its pods, and %s is none: set tollgate.state.type to persistentVolumeClaim or emptyDir" $title) -}}
  {{- end -}}
{{- end -}}
{{- if eq .state.type "persistentVolumeClaim" -}}
  {{- if not .state.claimName -}}
    {{- fail "tollgate: set tollgate.state.claimName to the PersistentVolumeClaim that keeps the state" -}}
  {{- end -}}
  {{- $claim := printf "tollgate: the claim %s is for one pod at a time" .state.claimName -}}
  {{- $other := "make it a StatefulSet with tollgate.state.type volumeClaimTemplate, or use emptyDir" -}}
  {{- if eq $kind "DaemonSet" -}}
    {{- fail (printf "%s, and %s runs one on every node: use tollgate.state.type emptyDir" $claim $title) -}}
  {{- else if gt $several 1 -}}
    {{- fail (printf "%s, and %s runs %d: run one, or %s" $claim $title $several $other) -}}
  {{- else if $rolling -}}
    {{- fail (printf "%s, and a rolling update of %s waits for a second: leave its strategy out, or set Recreate" $claim $title) -}}
  {{- else if and (eq $kind "CronJob") (eq ($spec.concurrencyPolicy | default "Allow") "Allow") -}}
    {{- fail (printf "%s, and runs of %s may overlap: set its concurrencyPolicy to Forbid" $claim $title) -}}
  {{- end -}}
  {{- include "tollgate.once" (dict "root" $root "what" (printf "claim %s" .state.claimName) "who" (printf "%s, product %s" $title .name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* All templates of a chart have the same context, so each sees the claims of the others. */}}
{{- define "tollgate.once" -}}
{{- if not (hasKey .root "tollgateClaimed") -}}
  {{- $_ := set .root "tollgateClaimed" dict -}}
{{- end -}}
{{- $claimed := .root.tollgateClaimed -}}
{{- with get $claimed .what -}}
  {{- fail (printf "tollgate: the %s is used by %s and by %s: %s" $.what . $.who ($.remedy | default "give each its own")) -}}
{{- end -}}
{{- $_ := set $claimed .what .who -}}
{{- end -}}

{{- define "tollgate.checkResources" -}}
{{- $requests := .resources.requests | default dict -}}
{{- $limits := .resources.limits | default dict -}}
{{- range $name, $limit := $limits -}}
  {{- $request := get $requests $name | default 0 -}}
  {{- if gt (include "tollgate.quantity" $request | float64) (include "tollgate.quantity" $limit | float64) -}}
    {{- fail (printf "tollgate: resources.requests.%s (%v) is above resources.limits.%s (%v): raise the limit" $name $request $name $limit) -}}
  {{- end -}}
{{- end -}}
{{- if hasKey $limits "memory" -}}
  {{- if lt (include "tollgate.quantity" $limits.memory | float64) 16777216.0 -}}
    {{- fail (printf "tollgate: resources.limits.memory (%v) is less than the sidecar needs: set at least 16Mi, and 32Mi in metered and saas" $limits.memory) -}}
  {{- end -}}
{{- end -}}
{{- if hasKey $limits "cpu" -}}
  {{- if lt (include "tollgate.quantity" $limits.cpu | float64) 0.01 -}}
    {{- fail (printf "tollgate: resources.limits.cpu (%v) is less than a start needs: set at least 10m, or leave it out" $limits.cpu) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Faults of the finished pod that the API server would refuse, named by the chart's values. */}}
{{- define "tollgate.sound" -}}
{{- $title := .workload.title -}}
{{- $pod := .workload.pod -}}
{{- $ours := list -}}
{{- range .products -}}
  {{- $ours = append $ours .name -}}
{{- end -}}
{{- $volumes := list -}}
{{- range concat ($pod.volumes | default list) (.workload.spec.volumeClaimTemplates | default list) -}}
  {{- $name := .name | default (.metadata | default dict).name -}}
  {{- if has $name $volumes -}}
    {{- fail (printf "tollgate: %s has two volumes of the name %v: give yours, or the one in extraVolumes, another" $title $name) -}}
  {{- end -}}
  {{- $volumes = append $volumes $name -}}
{{- end -}}
{{- $names := list -}}
{{- range concat ($pod.initContainers | default list) $pod.containers -}}
  {{- $container := .name -}}
  {{- if has $container $names -}}
    {{- fail (printf "tollgate: two containers of the pod have the name %s; set products[].name" $container) -}}
  {{- end -}}
  {{- $names = append $names $container -}}
  {{- $paths := list -}}
  {{- range .volumeMounts -}}
    {{- if has .mountPath $paths -}}
      {{- fail (printf "tollgate: container %s of %s has two volumes at %v: give the one in your values another path" $container $title .mountPath) -}}
    {{- end -}}
    {{- $paths = append $paths .mountPath -}}
    {{- if not (has .name $volumes) -}}
      {{- fail (printf "tollgate: container %s mounts the volume %v, which %s does not have: add it to tollgate.extraVolumes" $container .name $title) -}}
    {{- end -}}
  {{- end -}}
  {{- if has $container $ours -}}
    {{- $variables := list -}}
    {{- range .env -}}
      {{- if has .name $variables -}}
        {{- fail (printf "tollgate: %s is set twice for container %s: leave it out of tollgate.extraEnv" .name $container) -}}
      {{- else if hasPrefix "AWS_ENDPOINT_URL" .name -}}
        {{- fail (printf "tollgate: the sidecar refuses %s: leave it out, and for a rehearsal set tollgate.settings.endpoint_url" .name) -}}
      {{- end -}}
      {{- $variables = append $variables .name -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
