{{/* Settings of the server that the chart sees to. */}}
{{- define "attractor.environment" -}}
{{- $server := .Values.server -}}
{{- if eq .Values.mode "standalone" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
# Below POD_NAME: Kubernetes expands only what stands above
- name: ATTRACTOR_ADVERTISE
  value: $(POD_NAME).{{ include "attractor.fullname" . }}-headless.{{ .Release.Namespace }}.svc
- name: ATTRACTOR_SHARDS
  value: {{ $server.shards | quote }}
{{- else -}}
# As many shards as there are pods for them; each is told its pod's address by Ray
- name: ATTRACTOR_RAY_ADDRESS
  value: 127.0.0.1:6379
- name: ATTRACTOR_SHARDS
  value: "0"
- name: ATTRACTOR_PLACE_RESOURCE
  value: attractor
# An upgrade may bring other settings
- name: ATTRACTOR_ON_CHANGE
  value: restart
# Ray keeps what shards write to their stderr in files
- name: ATTRACTOR_SHARD_LOG
  value: /proc/1/fd/2
{{- end }}
- name: ATTRACTOR_HOST
  value: "0.0.0.0"
- name: ATTRACTOR_INSECURE
  value: {{ .Values.insecure | quote }}
- name: ATTRACTOR_PORT
  value: "7171"
- name: ATTRACTOR_DEVICE
  value: {{ $server.device }}
- name: ATTRACTOR_THREADS
  value: {{ $server.threads | default (include "attractor.threads" .) | quote }}
- name: ATTRACTOR_BANK_MEMORY_MIB
  value: {{ $server.bankMemoryMiB | quote }}
- name: ATTRACTOR_BANK_DTYPE
  value: {{ $server.bankDtype }}
- name: ATTRACTOR_ADMIN_PORT
  value: "9090"
- name: ATTRACTOR_ADMIN_DEBUG
  value: {{ .Values.admin.debug | quote }}
- name: ATTRACTOR_LOG_FORMAT
  value: {{ $server.logFormat }}
- name: ATTRACTOR_LOG_LEVEL
  value: {{ $server.logLevel }}
- name: ATTRACTOR_GRACE_S
  value: {{ $server.graceSeconds | quote }}
- name: ATTRACTOR_CONNECTION_AGE_S
  value: {{ $server.connectionAgeSeconds | quote }}
{{- with .Values.tls }}
{{- if .existingSecret }}
- name: ATTRACTOR_TLS_CERT
  value: /etc/attractor/tls/tls.crt
- name: ATTRACTOR_TLS_KEY
  value: /etc/attractor/tls/tls.key
{{- with .caKey }}
- name: ATTRACTOR_TLS_CA
  value: /etc/attractor/tls/{{ . }}
{{- end }}
{{- if .clientCertificates }}
- name: ATTRACTOR_TLS_CLIENT_CA
  value: /etc/attractor/tls/{{ .caKey }}
{{- end }}
{{- with .serverName }}
- name: ATTRACTOR_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if .optional }}
- name: ATTRACTOR_TLS_OPTIONAL
  value: "true"
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.identities.existingSecret }}
- name: ATTRACTOR_IDENTITIES
  value: /etc/attractor/identities/{{ .Values.identities.key }}
{{- end }}
{{ include "attractor.stores" . }}
{{- end -}}

{{/* Settings of where memories are kept, for all commands that reach them. */}}
{{- define "attractor.stores" -}}
{{- if .Values.backend.uri -}}
- name: ATTRACTOR_BACKEND_STORE_URI
  value: {{ .Values.backend.uri | quote }}
{{- if .Values.backend.existingSecret }}
- name: ATTRACTOR_BACKEND_PASSWORD_FILE
  value: /etc/attractor/backend/password
{{- end }}
{{- with include "attractor.libpq" . }}
{{ . }}
{{- end }}
{{- else -}}
- name: ATTRACTOR_DATA_DIR
  value: /data/store
{{- end }}
{{- with .Values.artifacts.store }}
- name: ATTRACTOR_ARTIFACT_STORE
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Variables that the database's library reads wherever a shard runs. */}}
{{- define "attractor.libpq" -}}
{{- if .Values.backend.tlsCaSecret -}}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /etc/attractor/backend-ca/ca.crt
{{- end }}
{{- end -}}

{{/* Variables of the user's own, which go after those of the chart. */}}
{{- define "attractor.extraEnvironment" -}}
{{- range $setting, $value := .Values.server.extraSettings }}
- name: {{ $setting }}
  value: {{ $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Each shard's part of the CPU request, in whole threads: without a limit the server would count the node's cores. */}}
{{- define "attractor.threads" -}}
{{- $cpu := toString .Values.resources.requests.cpu -}}
{{- $cores := ternary (divf (trimSuffix "m" $cpu | float64) 1000) (float64 (trimSuffix "m" $cpu)) (hasSuffix "m" $cpu) -}}
{{- max 1 (div (ceil $cores | int) (int .Values.server.shards)) -}}
{{- end -}}

{{/* Of all pods that run the server's code. */}}
{{- define "attractor.placement" -}}
serviceAccountName: {{ include "attractor.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false # ATTRACTOR_PORT of a Service called attractor would be taken for a setting
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
{{- with index $.Values $key }}
{{ $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of all containers. */}}
{{- define "attractor.container" -}}
image: {{ include "attractor.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- toYaml .Values.securityContext | nindent 2 }}
{{- end -}}

{{/* Of containers with shards: (list root, resources). */}}
{{- define "attractor.shardResources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if eq .Values.server.device "cuda" }}
{{- $_ := set $resources.limits "nvidia.com/gpu" .Values.server.shards }}
{{- end }}
{{- toYaml $resources }}
{{- end -}}

{{- define "attractor.ready" -}}
{{- mustMerge (dict "httpGet" (dict "path" "/readyz" "port" "admin")) . | toYaml }}
{{- end -}}

{{- define "attractor.volumes" -}}
- name: tmp
  emptyDir: {}
# 64 MiB, and Ray's store of objects, among which no pattern is
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ ternary 144 (add 64 .Values.cluster.ray.objectStoreMiB) (eq .Values.mode "standalone") }}Mi}
{{- if and .Values.backend.uri .Values.backend.existingSecret }}
- name: backend
  secret:
    secretName: {{ .Values.backend.existingSecret }}
    defaultMode: 0440
    items: [{key: {{ .Values.backend.existingSecretPasswordKey }}, path: password}]
{{- end }}
{{- if .Values.backend.tlsCaSecret }}
- name: backend-ca
  secret: {secretName: {{ .Values.backend.tlsCaSecret }}, defaultMode: 0440}
{{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.identities.existingSecret }}
- name: identities
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "attractor.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if not .Values.backend.uri }}
- {name: data, mountPath: /data}
{{- end }}
{{- if and .Values.backend.uri .Values.backend.existingSecret }}
- {name: backend, mountPath: /etc/attractor/backend, readOnly: true}
{{- end }}
{{- if .Values.backend.tlsCaSecret }}
- {name: backend-ca, mountPath: /etc/attractor/backend-ca, readOnly: true}
{{- end }}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /etc/attractor/tls, readOnly: true}
{{- end }}
{{- if .Values.identities.existingSecret }}
- {name: identities, mountPath: /etc/attractor/identities, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
