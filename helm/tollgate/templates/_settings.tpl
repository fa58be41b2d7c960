{{/*
The values that each setting accepts. The chart's schema checks the settings in the values, but not those in an include's options.
The names, words and patterns are the schema's, the bounds the sidecar's; tests/packaging compares them.
*/}}
{{- define "tollgate.settingForms" -}}
{{- $level := "([A-Za-z0-9_:]+=)?(?i:off|error|warn|info|debug|trace)" -}}
public_keys: {}
public_key_version: { pattern: "^[1-9][0-9]*$", write: a version such as 2 }
dimensions: { list: true }
entitlement_dimension: {}
entitlements: { list: true }
seats_per_pod: { pattern: "^[1-9][0-9]*$", write: a number such as 1 }
renew_every: { least: 1m, most: 12h }
license_end_grace: { least: 0s, most: 366d }
license_region: { pattern: "^([a-z]+(-[a-z]+)+-[0-9]{1,2})?$", write: "a region, such as us-east-1" }
license_token_file: { pattern: "^/", write: an absolute path }
dimension: { table: true, pattern: "^[{].*[}]$", write: "a dict of dicts, or one TOML inline table in braces" }
key_fingerprint: { pattern: "^aws.*:issuer-fingerprint$", write: "an issuer's fingerprint, which begins with aws:" }
docs_url: { pattern: "^https?://.", write: "an address that begins with https://" }
allow_emulated: { words: ["true", "false", "on", "off"] }
endpoint_url: { pattern: "^https?://", write: "an address that begins with https:// or http://" }
app_token_file: { pattern: "^/", write: an absolute path }
aws_door: { words: ["true", "false", "on", "off"] }
quit: { words: ["true", "false", "on", "off"] }
ledger_url_file: { pattern: "^/", write: an absolute path }
unavailable_after: { least: 0s, most: 366d }
grace_period: { least: 0s, most: 366d }
on_denied: { words: [hold, exit] }
on_lapse: { least: 0s, most: 366d, closes: true }
after_denial: { words: [ask-again, new-pod] }
kept_receipt: { words: ["true", "false", "on", "off"] }
settle: { least: 0s, most: 59m }
on_expired: { words: [carry, dead-letter] }
on_zero_hour: { words: [skip, report] }
on_unsent: { least: 2h, most: 366d, closes: true }
seal_on_shutdown: { words: ["true", "false", "on", "off"] }
idempotency_window: { least: 2h, most: 30d }
strict_usage: { words: ["true", "false", "on", "off"] }
ledger_repair: { words: ["true", "false", "on", "off"] }
drain_quiet: { least: 0s, most: 1h }
command_grace: { least: 0s, most: 1h }
ledger_bytes_max: { pattern: "^[0-9]+(B|KiB|MiB|GiB|TiB)$", write: a size such as 512MiB, above: 16MiB }
log_format: { words: [json, text] }
log_filter: { pattern: {{ printf "^%s(,%s)*$" $level $level | quote }}, write: "off, error, warn, info, debug or trace, or directives such as info,tollgate::registration=debug" }
clock: { pattern: "^(system|https?://.+)$", write: system or an address }
{{- end -}}

{{/* A dict as one TOML inline table. Texts are written as JSON, which TOML reads as the same texts. */}}
{{- define "tollgate.inlineTable" -}}
{{- $members := list -}}
{{- range $key, $value := . -}}
  {{- if kindIs "map" $value -}}
    {{- $members = append $members (printf "%s = %s" (toJson $key) (include "tollgate.inlineTable" $value)) -}}
  {{- else if not (kindIs "invalid" $value) -}}
    {{- $members = append $members (printf "%s = %s" (toJson $key) (toJson $value)) -}}
  {{- end -}}
{{- end -}}
{{- printf "{ %s }" (join ", " $members) -}}
{{- end -}}

{{/* Checks the settings of one product, and turns lists and dicts into texts, in place. */}}
{{- define "tollgate.settings" -}}
{{- $settings := . -}}
{{- $forms := include "tollgate.settingForms" . | fromYaml -}}
{{- range $name, $value := $settings -}}
  {{- if not (hasKey $forms $name) -}}
    {{- $meant := $name | snakecase | replace "-" "_" -}}
    {{- $remedy := ternary (printf "write %s" $meant) "docs/CONFIGURATION.md lists them" (hasKey $forms $meant) -}}
    {{- fail (printf "tollgate: settings.%s is no setting that the chart passes on: %s" $name $remedy) -}}
  {{- end -}}
  {{- $form := get $forms $name -}}
  {{- if or (and (kindIs "map" $value) (not $form.table)) (and (kindIs "slice" $value) (not $form.list)) -}}
    {{- fail (printf "tollgate: settings.%s takes one value, and not a list or a dict" $name) -}}
  {{- end -}}
  {{- if kindIs "map" $value -}}
    {{- range $dimension, $members := $value -}}
      {{- if not (kindIs "map" $members) -}}
        {{- fail (printf "tollgate: settings.%s.%s is no dict: name the dimension, and below it its members, such as heartbeat: 1" $name $dimension) -}}
      {{- end -}}
    {{- end -}}
    {{- $value = include "tollgate.inlineTable" $value -}}
    {{- $_ := set $settings $name $value -}}
  {{- end -}}
  {{- if kindIs "slice" $value -}}
    {{- range $value -}}
      {{- if or (not (kindIs "string" .)) (eq (toString . | trim) "") (contains "," (toString .)) -}}
        {{- fail (printf "tollgate: settings.%s holds %v, which is no name: give a list of texts" $name (toJson .)) -}}
      {{- end -}}
    {{- end -}}
    {{- $_ := set $settings $name (join "," $value) -}}
  {{- end -}}
  {{- $text := toString $value -}}
  {{- /* Nested, because the `and` of older Helm evaluates both of its sides. */ -}}
  {{- with $form.words -}}
    {{- if not (has $text .) -}}
      {{- fail (printf "tollgate: settings.%s is %s; give one of %s" $name $text (join ", " .)) -}}
    {{- end -}}
  {{- end -}}
  {{- with $form.pattern -}}
    {{- if not (regexMatch . $text) -}}
      {{- fail (printf "tollgate: settings.%s is %s; write %s" $name $text $form.write) -}}
    {{- end -}}
  {{- end -}}
  {{- with $form.above -}}
    {{- if lt (include "tollgate.quantity" $text | float64) (include "tollgate.quantity" . | float64) -}}
      {{- fail (printf "tollgate: settings.%s is %s; choose %s or more" $name $text .) -}}
    {{- end -}}
  {{- end -}}
  {{- if and $form.most (not (and $form.closes (eq $text "keep"))) -}}
    {{- $start := ternary "close-after:" "" ($form.closes | default false) -}}
    {{- if not (regexMatch (printf "^%s([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$" $start) $text) -}}
      {{- fail (printf "tollgate: settings.%s is %s; write %s" $name $text (ternary "keep, or close-after: and a duration, such as close-after:6h" "a duration, such as 1h30m" (ne $start ""))) -}}
    {{- end -}}
    {{- $duration := trimPrefix $start $text -}}
    {{- $seconds := include "tollgate.seconds" $duration | float64 -}}
    {{- if or (eq $duration "") (lt $seconds (include "tollgate.seconds" $form.least | float64)) (gt $seconds (include "tollgate.seconds" $form.most | float64)) -}}
      {{- fail (printf "tollgate: settings.%s is %s; choose between %s and %s" $name $text $form.least $form.most) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
