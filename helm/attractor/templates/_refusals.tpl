{{/* Values that no schema can refuse, each in one line: the value, what was seen, what was expected. */}}
{{- define "attractor.refusals" -}}
{{- $server := .Values.server -}}
{{- $tls := .Values.tls -}}
{{- $open := include "attractor.open" . | fromYamlArray -}}
{{- if and $open (not .Values.insecure) -}}
{{- fail (printf "insecure: saw false without %s; expected them, or true, which says that it is meant: whoever reaches the port reads and writes every memory" (join " and " $open)) -}}
{{- end -}}
{{- if and .Values.insecure (not $open) -}}
{{- fail "insecure: saw true with TLS and identities; expected false, since nothing is open" -}}
{{- end -}}
{{- if not $tls.existingSecret -}}
{{- range $key := list "clientCertificates" "optional" "serverName" -}}
{{- with index $tls $key -}}
{{- fail (printf "tls.%s: saw %v without tls.existingSecret; expected the Secret with the certificate" $key .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $tls.clientCertificates (not $tls.caKey) -}}
{{- fail "tls.caKey: saw none with tls.clientCertificates; expected the key of the CA that issues them" -}}
{{- end -}}
{{- if and .Values.tests.existingSecret (not .Values.identities.existingSecret) -}}
{{- fail (printf "tests.existingSecret: saw %q without identities.existingSecret; expected the file that the token is in" .Values.tests.existingSecret) -}}
{{- end -}}
{{- if regexMatch "^[^:]+://[^/@]*:.*@|[?&]password=" .Values.backend.uri -}}
{{- fail "backend.uri: saw a password; expected it in the Secret that backend.existingSecret names" -}}
{{- end -}}
{{- if and (ne .Values.mode "standalone") .Values.persistence.existingClaim -}}
{{- fail (printf "persistence.existingClaim: saw %q with mode %s; expected none, since memories are in PostgreSQL" .Values.persistence.existingClaim .Values.mode) -}}
{{- end -}}
{{- if and .Values.backend.existingSecret (not .Values.backend.uri) -}}
{{- fail (printf "backend.existingSecret: saw %q without backend.uri; expected the address of the database that the password is for" .Values.backend.existingSecret) -}}
{{- end -}}
{{- if ne .Values.mode "standalone" -}}
{{- if not .Values.backend.uri -}}
{{- fail (printf "mode: saw %s without backend.uri; expected a PostgreSQL, since pods share no volume" .Values.mode) -}}
{{- end -}}
{{- if ne (int $server.shards) 1 -}}
{{- fail (printf "server.shards: saw %d with mode %s; expected 1, a shard for each pod; cluster.replicas says how many" (int $server.shards) .Values.mode) -}}
{{- end -}}
{{- end -}}
{{- with .Values.cluster -}}
{{- if and .autoscaling.enabled (ne $.Values.mode "cluster") -}}
{{- fail (printf "cluster.autoscaling.enabled: saw true with mode %s; expected mode cluster, whose pods alone can be scaled" $.Values.mode) -}}
{{- end -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) -}}
{{- fail (printf "cluster.autoscaling.minReplicas: saw %d; expected no more than maxReplicas, %d" (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and .redis.address (ne $.Values.mode "raycluster") -}}
{{- fail (printf "cluster.redis.address: saw %q with mode %s; expected mode raycluster, or cluster.storage" .redis.address $.Values.mode) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.mode "raycluster") .Values.podDisruptionBudget.enabled (kindIs "string" .Values.podDisruptionBudget.maxUnavailable) -}}
{{- fail (printf "podDisruptionBudget.maxUnavailable: saw %q with mode raycluster; expected a number, since Kubernetes takes no share of such pods" .Values.podDisruptionBudget.maxUnavailable) -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) -}}
{{- fail "grpcRoute.parentRefs: saw none; expected the Gateway that the route is of" -}}
{{- end -}}
{{- with .Values.backup -}}
{{- if .enabled -}}
{{- if $.Values.backend.uri -}}
{{- fail "backup.enabled: saw true with backend.uri; expected PostgreSQL's own copies (pg_dump), or memories on the volume" -}}
{{- end -}}
{{- if not .existingClaim -}}
{{- fail "backup.existingClaim: saw none; expected the claim of a volume for copies" -}}
{{- end -}}
{{- if has "ReadWriteOncePod" $.Values.persistence.accessModes -}}
{{- fail "backup.enabled: saw true with ReadWriteOncePod in persistence.accessModes; expected ReadWriteOnce, since the copy is made by a pod of its own" -}}
{{- end -}}
{{- end -}}
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

{{/* What the server would refuse to do without, by the names of the values. */}}
{{- define "attractor.open" -}}
{{- if or (not .Values.tls.existingSecret) .Values.tls.optional }}
- {{ ternary "tls.optional false" "tls.existingSecret" .Values.tls.optional }}
{{- end }}
{{- if not (or .Values.identities.existingSecret .Values.tls.clientCertificates) }}
- identities.existingSecret
{{- end }}
{{- end -}}

{{/* A quantity as the schema takes it, in MiB. */}}
{{- define "attractor.mib" -}}
{{- if hasSuffix "Gi" . }}{{ trimSuffix "Gi" . | float64 | mulf 1024 | int }}{{ else }}{{ trimSuffix "Mi" . | float64 | int }}{{ end -}}
{{- end -}}
