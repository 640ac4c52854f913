{{/* Settings of the server that the chart sees to. */}}
{{- define "attractor.environment" -}}
{{- $server := .Values.server -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
# Below POD_NAME: Kubernetes expands only what stands above
- name: ATTRACTOR_ADVERTISE
  value: $(POD_NAME).{{ include "attractor.fullname" . }}-headless.{{ .Release.Namespace }}.svc
- name: ATTRACTOR_HOST
  value: "0.0.0.0"
- name: ATTRACTOR_INSECURE
  value: {{ .Values.insecure | quote }}
- name: ATTRACTOR_PORT
  value: "7171"
- name: ATTRACTOR_SHARDS
  value: {{ $server.shards | quote }}
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
{{- with .Values.artifacts.store }}
- name: ATTRACTOR_ARTIFACT_STORE
  value: {{ . | quote }}
{{- end }}
{{- if .Values.backend.uri }}
- name: ATTRACTOR_BACKEND_STORE_URI
  value: {{ .Values.backend.uri | quote }}
{{- if .Values.backend.existingSecret }}
- name: ATTRACTOR_BACKEND_PASSWORD_FILE
  value: /etc/attractor/backend/password
{{- end }}
{{- if .Values.backend.tlsCaSecret }}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /etc/attractor/backend-ca/ca.crt
{{- end }}
{{- else }}
- name: ATTRACTOR_DATA_DIR
  value: /data/store
{{- end }}
{{- end -}}

{{/* Each shard's part of the CPU request, in whole threads: without a limit the server would count the node's cores. */}}
{{- define "attractor.threads" -}}
{{- $cpu := toString .Values.resources.requests.cpu -}}
{{- $cores := ternary (divf (trimSuffix "m" $cpu | float64) 1000) (float64 (trimSuffix "m" $cpu)) (hasSuffix "m" $cpu) -}}
{{- max 1 (div (ceil $cores | int) (int .Values.server.shards)) -}}
{{- end -}}

{{- define "attractor.volumes" -}}
- name: tmp
  emptyDir: {}
# 64 MiB, and the least that Ray takes for its objects, among which no pattern is
- name: shm
  emptyDir: {medium: Memory, sizeLimit: 144Mi}
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
