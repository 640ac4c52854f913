{{/* Values that no schema can refuse, each in one line: the value, what was seen, what was expected. */}}
{{- define "attractor.refusals" -}}
{{- $server := .Values.server -}}
{{- if not .Values.insecure -}}
{{- fail "insecure: saw false; expected true, since this version has neither TLS nor authentication: whoever reaches its port reads and writes every memory" -}}
{{- end -}}
{{- if regexMatch "^[^:]+://[^/@]*:.*@|[?&]password=" .Values.backend.uri -}}
{{- fail "backend.uri: saw a password; expected it in the Secret that backend.existingSecret names" -}}
{{- end -}}
{{- if and .Values.backend.existingSecret (not .Values.backend.uri) -}}
{{- fail (printf "backend.existingSecret: saw %q without backend.uri; expected the address of the database that the password is for" .Values.backend.existingSecret) -}}
{{- end -}}
{{- if not (or .Values.backend.uri .Values.persistence.enabled) -}}
{{- fail "persistence.enabled: saw false without backend.uri; expected a volume or a database, or memories end with the pod" -}}
{{- end -}}
{{- $grace := add (ceil $server.graceSeconds | int) 15 -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $grace) -}}
{{- fail (printf "terminationGracePeriodSeconds: saw %d; expected %d or more: server.graceSeconds, and 15 s for Ray" (int .Values.terminationGracePeriodSeconds) $grace) -}}
{{- end -}}
{{- $limit := include "attractor.mib" .Values.resources.limits.memory | int -}}
{{- $least := add 728 (mul 700 (int $server.shards)) -}}
{{- if lt $limit (int $least) -}}
{{- fail (printf "resources.limits.memory: saw %d MiB; expected %d or more for server.shards %d, which leaves room for memories" $limit $least (int $server.shards)) -}}
{{- end -}}
{{- $set := include "attractor.environment" . | fromYamlArray -}}
{{- range $name, $value := $server.extraSettings -}}
{{- range $set -}}
{{- if eq .name $name -}}
{{- fail (printf "server.extraSettings: saw %s, which the chart sets; expected another setting" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity as the schema takes it, in MiB. */}}
{{- define "attractor.mib" -}}
{{- if hasSuffix "Gi" . }}{{ trimSuffix "Gi" . | float64 | mulf 1024 | int }}{{ else }}{{ trimSuffix "Mi" . | float64 | int }}{{ end -}}
{{- end -}}
