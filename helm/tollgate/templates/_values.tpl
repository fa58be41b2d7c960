{{/*
The defaults of absent values, because Helm drops a key that is given as null. The same as values.yaml; tests/packaging compares
the two.
*/}}
{{- define "tollgate.defaults" -}}
image: { registry: "", repository: tollgate, tag: 0.2.0, digest: "", pullPolicy: IfNotPresent }
gate: native
position: last
refused: wait
container: ""
command: []
mode: hourly
productCode: ""
productId: ""
licenseModel: check
region: ""
settings: {}
products: []
serviceAccount: { create: false, name: "", roleArn: "", automountToken: true, onlyTollgate: false }
state: { type: "", claimName: "", storageClassName: "", sizeLimit: "" }
ports: { probe: 19180, app: 19181 }
appSocket: false
probes: { sidecarReadiness: false }
resources:
  requests: { cpu: 10m, memory: 16Mi }
  limits: { memory: 32Mi }
shutdownGrace: 25s
terminationGraceExtraSeconds: 15
applicationStopSeconds: 30
extraEnv: []
extraVolumes: []
extraVolumeMounts: []
caConfigMap: ""
licenseSecret: ""
proxy: { http: "", https: "", noProxy: "" }
mesh: ""
networkPolicy: { enabled: false, egress: [] }
podMonitor: { enabled: false, labels: {} }
prometheusRule: { enabled: false, labels: {} }
{{- end -}}

{{/*
Lays one map over another, in place: (dict "under" … "over" …). A null value leaves the value below unchanged. Sprig's merge
functions would treat false, 0 and "" as absent.
*/}}
{{- define "tollgate.overlay" -}}
{{- $under := .under -}}
{{- range $key, $value := .over -}}
  {{- if kindIs "map" $value -}}
    {{- if not (kindIs "map" (get $under $key)) -}}
      {{- $_ := set $under $key dict -}}
    {{- end -}}
    {{- include "tollgate.overlay" (dict "under" (get $under $key) "over" $value) -}}
  {{- else if not (kindIs "invalid" $value) -}}
    {{- $_ := set $under $key $value -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/*
The options of one include, the last item of its list: an alias, or values for this workload alone. The chart's schema does
not see them. (dict "options" … "known" (list …)).
*/}}
{{- define "tollgate.options" -}}
{{- if not (kindIs "map" .options) -}}
  {{- fail "tollgate: the last item of the include's list must be a dict, such as (dict \"gate\" \"exec\")" -}}
{{- end -}}
{{- $words := dict "gate" (list "native" "readiness" "exec") "position" (list "last" "first") "refused" (list "wait" "fail") "mode" (list "hourly" "metered" "contract" "saas") "licenseModel" (list "check" "floating") -}}
{{- $kinds := dict "command" "slice" "state" "map" "settings" "map" -}}
{{- $patterns := dict "productCode" "^[-a-zA-Z0-9/=:_.@]{0,255}$" "productId" "^[-a-zA-Z0-9._]{0,255}$" "region" "^([a-z]+(-[a-z]+)+-[0-9]{1,2})?$" -}}
{{- range $key, $value := .options -}}
  {{- $allowed := get $words $key -}}
  {{- if not (has $key $.known) -}}
    {{- fail (printf "tollgate: the include's option %s is none of %s" $key (join ", " $.known)) -}}
  {{- else if kindIs "invalid" $value -}}
  {{- else if $allowed -}}
    {{- if not (has $value $allowed) -}}
      {{- fail (printf "tollgate: the include's option %s is %v; give one of %s" $key $value (join ", " $allowed)) -}}
    {{- end -}}
  {{- else if not (kindIs (get $kinds $key | default "string") $value) -}}
    {{- fail (printf "tollgate: the include's option %s must be a %s" $key (get (dict "slice" "list" "map" "dict") (get $kinds $key) | default "string")) -}}
  {{- else if not (regexMatch (get $patterns $key) (toString $value)) -}}
    {{- fail (printf "tollgate: the include's option %s is %s, which is no %s" $key $value (get (dict "region" "AWS region, such as us-east-1" "productCode" "product code" "productId" "product ID") $key)) -}}
  {{- else if eq $key "state" -}}
    {{- $known := list "type" "claimName" "storageClassName" "sizeLimit" -}}
    {{- range $name, $text := $value -}}
      {{- if not (has $name $known) -}}
        {{- fail (printf "tollgate: the include's option state has %s, which is none of %s" $name (join ", " $known)) -}}
      {{- else if not (or (kindIs "invalid" $text) (kindIs "string" $text)) -}}
        {{- fail (printf "tollgate: the include's option state.%s must be a string" $name) -}}
      {{- end -}}
    {{- end -}}
    {{- $types := list "none" "emptyDir" "persistentVolumeClaim" "volumeClaimTemplate" -}}
    {{- if not (has ($value.type | default "none") $types) -}}
      {{- fail (printf "tollgate: the include's option state.type is %s; give one of %s" $value.type (join ", " $types)) -}}
    {{- else if not (regexMatch "^([1-9][0-9]{0,8}(Ki|Mi|Gi|Ti|k|M|G|T)?)?$" ($value.sizeLimit | default "")) -}}
      {{- fail (printf "tollgate: the include's option state.sizeLimit is %s; write a size such as 2Gi" $value.sizeLimit) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* All values, with defaults for absent ones: (dict "root" … "alias" …). */}}
{{- define "tollgate.values" -}}
{{- $alias := .alias | default "tollgate" -}}
{{- $given := get .root.Values $alias -}}
{{- if not (kindIs "map" $given) -}}
  {{- fail (printf "tollgate: the chart has no values under %s: where Chart.yaml gives the dependency an alias, name it in each include, such as (list . \"my-product.deployment\" (dict \"alias\" \"gate\"))" $alias) -}}
{{- end -}}
{{- $values := include "tollgate.defaults" . | fromYaml -}}
{{- include "tollgate.overlay" (dict "under" $values "over" (omit $given "global")) -}}
{{- toYaml $values -}}
{{- end -}}

{{/*
The products: at least one, each laid over the common values, and the options of a workload over it:
(dict "values" … "options" …).
*/}}
{{- define "tollgate.products" -}}
{{- $common := .values -}}
{{- $options := omit (.options | default dict) "alias" -}}
{{- $products := list -}}
{{- $given := $common.products | default (list (dict)) -}}
{{- range $index, $own := $given -}}
  {{- $own = $own | default dict -}}
  {{- $product := deepCopy (omit $common "products") -}}
  {{- include "tollgate.overlay" (dict "under" $product "over" $own) -}}
  {{- include "tollgate.overlay" (dict "under" $product "over" $options) -}}
  {{- $name := $own.name | default (ternary "tollgate" (printf "tollgate-%d" $index) (eq (len $given) 1)) -}}
  {{- $_ := set $product "name" $name -}}
  {{- $_ := set $product "await" (printf "%s-await" $name) -}}
  {{- if and (gt $index 0) (not $own.ports) -}}
    {{- $step := mul 10 $index -}}
    {{- $_ := set $product "ports" (dict "probe" (add $common.ports.probe $step) "app" (add $common.ports.app $step)) -}}
  {{- end -}}
  {{- $state := $product.state -}}
  {{- if and (has $product.mode (list "hourly" "contract")) (not $state.type) -}}
    {{- /* The kept receipt lets a product that ran before its node's reboot start although AWS is down. The checkout lets a
         sidecar that restarts keep its seats. */ -}}
    {{- $_ := set $state "type" "emptyDir" -}}
  {{- end -}}
  {{- if not $state.sizeLimit -}}
    {{- /* Room for a ledger in every mode: only the image knows its mode, and a pod above the limit is evicted. */ -}}
    {{- $_ := set $state "sizeLimit" "2Gi" -}}
  {{- end -}}
  {{- include "tollgate.settings" $product.settings -}}
  {{- $products = append $products $product -}}
{{- end -}}
{{- toYaml (dict "products" $products) -}}
{{- end -}}

{{/* Seconds of a duration such as 20s, 2m or 1m30s, with a fraction where it has milliseconds. */}}
{{- define "tollgate.seconds" -}}
{{- $sum := 0.0 -}}
{{- range $unit, $factor := dict "d" 86400.0 "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 -}}
  {{- $found := regexFind (printf "[0-9]+%s([0-9]|$)" $unit) $ | regexFind "^[0-9]+" -}}
  {{- $sum = addf $sum (mulf (float64 $found) $factor) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* A quantity in whole units: 10m, 2, 32Mi, 1GiB. */}}
{{- define "tollgate.quantity" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[a-zA-Z]*$" $text | trimSuffix "B" | trimSuffix "i" -}}
{{- $binary := regexMatch "i(B)?$" $text -}}
{{- $steps := get (dict "k" 1 "K" 1 "M" 2 "G" 3 "T" 4) $unit | int -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text | float64 -}}
{{- if eq $unit "m" -}}
  {{- $number = mulf $number 0.001 -}}
{{- end -}}
{{- range until $steps -}}
  {{- $number = mulf $number (ternary 1024.0 1000.0 $binary) -}}
{{- end -}}
{{- $number -}}
{{- end -}}
