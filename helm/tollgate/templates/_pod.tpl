{{/* Adds items to the list in an annotation: (dict "annotations" . "name" "…" "items" (list …)). */}}
{{- define "tollgate.annotate" -}}
{{- $present := splitList "," (get .annotations .name | default "" | toString) -}}
{{- with concat $present .items | compact | uniq | join "," -}}
  {{- $_ := set $.annotations $.name . -}}
{{- end -}}
{{- end -}}

{{/* The destination ports of one product's calls: HTTPS, the proxy's, and those of an emulator. Space-separated. */}}
{{- define "tollgate.egress" -}}
443 {{- range list .proxy.https .proxy.http .settings.endpoint_url -}}
  {{- if . -}}
    {{- $authority := regexReplaceAll "^[a-z]+://" (toString .) "" | regexFind "^[^/?#]*" -}}
    {{- $port := regexFind ":[0-9]+$" $authority | trimPrefix ":" }} {{ $port | default (ternary "443" "80" (hasPrefix "https:" .)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* The account of the pods; if the chart makes it and no value names it, it has the release's name. */}}
{{- define "tollgate.account" -}}
{{- $account := .values.serviceAccount -}}
{{- if $account.name -}}{{ $account.name }}{{- else if $account.create -}}{{ .root.Release.Name }}{{- end -}}
{{- end -}}

{{/* Changes of the whole pod. */}}
{{- define "tollgate.pod" -}}
{{- $template := .workload.template -}}
{{- $pod := .workload.pod -}}
{{- $values := .values -}}
{{- with include "tollgate.account" . -}}
  {{- $_ := set $pod "serviceAccountName" . -}}
{{- end -}}
{{- if not (or $values.serviceAccount.automountToken (kindIs "bool" $pod.automountServiceAccountToken)) -}}
  {{- /* IRSA projects a token of its own, and tollgate does not speak to Kubernetes. */ -}}
  {{- $_ := set $pod "automountServiceAccountToken" false -}}
{{- end -}}
{{- if not $template.metadata -}}
  {{- $_ := set $template "metadata" dict -}}
{{- end -}}
{{- $annotations := $template.metadata.annotations | default dict -}}
{{- $ports := list -}}
{{- $egress := list -}}
{{- $sidecars := list -}}
{{- $roleless := list -}}
{{- $inTurn := 0 -}}
{{- $atOnce := 0 -}}
{{- range .products -}}
  {{- $sidecars = append $sidecars .name -}}
  {{- if ne .gate "readiness" -}}
    {{- $roleless = append $roleless (ternary .await "tollgate-install" (eq .gate "native")) -}}
  {{- end -}}
  {{- if eq .state.type "emptyDir" -}}
    {{- /* Otherwise the cluster autoscaler never removes the node; SEMANTICS says which usage is lost with it. */ -}}
    {{- $evict := dict "annotations" $annotations "name" "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" -}}
    {{- include "tollgate.annotate" (set $evict "items" (list (printf "%s-state" .name))) -}}
  {{- end -}}
  {{- if has .state.type (list "persistentVolumeClaim" "volumeClaimTemplate") -}}
    {{- /* A volume belongs to root until the pod has an fsGroup. Only here: it would change the group of the application's volumes too. */ -}}
    {{- $context := $pod.securityContext | default dict -}}
    {{- if not (hasKey $context "fsGroup") -}}
      {{- $_ := set $context "fsGroup" 65532 -}}
    {{- end -}}
    {{- $_ := set $pod "securityContext" $context -}}
  {{- end -}}
  {{- $ports = append $ports (toString .ports.probe) -}}
  {{- $egress = concat $egress (splitList " " (include "tollgate.egress" .)) -}}
  {{- $grace := include "tollgate.seconds" .shutdownGrace | float64 | int -}}
  {{- if eq .gate "native" -}}
    {{- /* Kubernetes stops native sidecars one after the other. */ -}}
    {{- $inTurn = add $inTurn $grace -}}
  {{- else -}}
    {{- $atOnce = max $atOnce $grace -}}
  {{- end -}}
  {{- if $pod.hostNetwork -}}
    {{- /* On the host's network loopback is the node's: only the scheduler can separate two such pods, and before 1.34 it ignores ports of init containers. */ -}}
    {{- $native := eq .gate "native" -}}
    {{- $name := .name -}}
    {{- $ports := ternary (list) (list .ports.app) .appSocket -}}
    {{- $ports = ternary (prepend $ports .ports.probe) $ports $native -}}
    {{- range $index, $container := $pod.containers -}}
      {{- if or (and $native (eq $index 0)) (eq $container.name $name) -}}
        {{- range $port := $ports -}}
          {{- $declared := dict "containerPort" $port "hostPort" $port "protocol" "TCP" -}}
          {{- $_ := set $container "ports" (append ($container.ports | default list) $declared) -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if eq $values.mesh "istio" -}}
  {{- include "tollgate.annotate" (dict "annotations" $annotations "name" "traffic.sidecar.istio.io/excludeInboundPorts" "items" $ports) -}}
  {{- /* DNS too: if the mesh's proxy answers DNS and starts after the init containers, there is no DNS while the gate is shut. */ -}}
  {{- include "tollgate.annotate" (dict "annotations" $annotations "name" "traffic.sidecar.istio.io/excludeOutboundPorts" "items" (append $egress "53")) -}}
  {{- if not (hasKey $annotations "sidecar.istio.io/nativeSidecar") -}}
    {{- $_ := set $annotations "sidecar.istio.io/nativeSidecar" "true" -}}
  {{- end -}}
{{- else if eq $values.mesh "linkerd" -}}
  {{- include "tollgate.annotate" (dict "annotations" $annotations "name" "config.linkerd.io/skip-inbound-ports" "items" $ports) -}}
  {{- include "tollgate.annotate" (dict "annotations" $annotations "name" "config.linkerd.io/skip-outbound-ports" "items" $egress) -}}
{{- end -}}
{{- /* EKS gives the role to every container that is not named here; only the sidecars need it. */ -}}
{{- if $values.serviceAccount.onlyTollgate -}}
  {{- $roleless = list -}}
  {{- range concat ($pod.initContainers | default list) $pod.containers -}}
    {{- if not (has .name $sidecars) -}}
      {{- $roleless = append $roleless .name -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- include "tollgate.annotate" (dict "annotations" $annotations "name" "eks.amazonaws.com/skip-containers" "items" $roleless) -}}
{{- if $annotations -}}
  {{- $_ := set $template.metadata "annotations" $annotations -}}
{{- end -}}
{{- /* The application's own time comes first. The sidecar's time must fit after it, or the last usage is not sent. */ -}}
{{- $application := max ($pod.terminationGracePeriodSeconds | default 0 | int) (int $values.applicationStopSeconds) -}}
{{- $_ := set $pod "terminationGracePeriodSeconds" (add $application $inTurn $atOnce $values.terminationGraceExtraSeconds) -}}
{{- end -}}
