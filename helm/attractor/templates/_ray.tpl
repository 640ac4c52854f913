{{/* Pods of modes cluster and raycluster. In the latter the operator makes the commands of Ray, and adds the head's address. */}}

{{- define "attractor.heading" -}}
{{ include "attractor.selector" . }}
app.kubernetes.io/component: head
{{- end -}}

{{- define "attractor.rayToken" -}}
{{- .Values.cluster.ray.existingTokenSecret | default (printf "%s-ray" (include "attractor.fullname" .)) -}}
{{- end -}}

{{/* Variables of all of Ray's processes, and of those that join them. */}}
{{- define "attractor.rayEnvironment" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "attractor.rayToken" . }}, key: auth_token}}
{{- end -}}

{{- define "attractor.objectStoreBytes" -}}
{{- mul (int .Values.cluster.ray.objectStoreMiB) 1048576 -}}
{{- end -}}

{{/* The head: Ray's own, without a place for a shard, and beside it the command that looks after the shards. */}}
{{- define "attractor.headPod" -}}
metadata:
  labels:
    {{- include "attractor.heading" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "attractor.placement" . | nindent 2 }}
  shareProcessNamespace: true # Ray finds its own node among the processes that it sees
  containers:
    - name: ray-head
      {{- include "attractor.container" . | nindent 6 }}
      {{- if eq .Values.mode "cluster" }}
      command: [ray, start, --head, --block, --disable-usage-stats, --include-dashboard=false]
      args:
        - --port=6379
        - --node-ip-address=$(POD_IP)
        - --num-cpus=0
        - --memory=0
        - --object-store-memory={{ include "attractor.objectStoreBytes" . }}
      {{- end }}
      env:
        {{- include "attractor.rayEnvironment" . | nindent 8 }}
        - {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: "0"}
        {{- if and (eq .Values.mode "cluster") .Values.cluster.storage.enabled }}
        - {name: RAY_gcs_storage, value: rocksdb}
        - {name: RAY_gcs_storage_path, value: /gcs}
        {{- end }}
      ports:
        - {name: gcs, containerPort: 6379, protocol: TCP}
      {{- $answers := dict "tcpSocket" (dict "port" "gcs") }}
      startupProbe: {{- mustMerge (deepCopy $answers) .Values.startupProbe | toYaml | nindent 8 }}
      readinessProbe: {{- mustMerge (deepCopy $answers) .Values.readinessProbe | toYaml | nindent 8 }}
      livenessProbe: {{- mustMerge $answers .Values.livenessProbe | toYaml | nindent 8 }}
      resources: {{- toYaml .Values.cluster.head.resources | nindent 8 }}
      volumeMounts:
        {{- include "attractor.mounts" . | nindent 8 }}
        {{- if and (eq .Values.mode "cluster") .Values.cluster.storage.enabled }}
        - {name: gcs, mountPath: /gcs}
        {{- end }}
    - name: gateway
      {{- include "attractor.container" . | nindent 6 }}
      command: [bash, -c]
      args: ["until (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null; do sleep 0.5; done; exec attractor serve"]
      env:
        {{- include "attractor.rayEnvironment" . | nindent 8 }}
        {{- include "attractor.environment" . | nindent 8 }}
        {{- with include "attractor.extraEnvironment" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- with .Values.artifacts.existingSecret }}
      envFrom: [{secretRef: {name: {{ . }}}}]
      {{- end }}
      resources: {{- toYaml .Values.cluster.gateway.resources | nindent 8 }}
      volumeMounts: {{- include "attractor.mounts" . | nindent 8 }}
  volumes: {{- include "attractor.volumes" . | nindent 4 }}
{{- end -}}

{{/* A pod with one shard, which Ray starts in it. */}}
{{- define "attractor.shardPod" -}}
{{- $name := include "attractor.fullname" . -}}
metadata:
  labels:
    {{- include "attractor.serving" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "attractor.placement" . | nindent 2 }}
  topologySpreadConstraints:
    {{- with .Values.cluster.topologySpreadConstraints }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "attractor.serving" $ | nindent 10 }}
    {{- end }}
  containers:
    - name: shard
      {{- include "attractor.container" . | nindent 6 }}
      {{- if eq .Values.mode "cluster" }}
      command: [tini, --, ray, start, --block, --disable-usage-stats]
      args:
        - --address={{ $name }}-head-0.{{ $name }}-head.{{ .Release.Namespace }}.svc:6379
        - --node-ip-address=$(POD_IP)
        - --node-manager-port=6380
        - --num-cpus=1
        - '--resources={"attractor": 1}'
        - --object-store-memory={{ include "attractor.objectStoreBytes" . }}
      {{- end }}
      env:
        {{- include "attractor.rayEnvironment" . | nindent 8 }}
        # A head that is away for less than this is waited for
        - {name: RAY_gcs_rpc_server_reconnect_timeout_s, value: "600"}
        # For so long the node is one that will end, and others take over what its shard has
        - {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ add (ceil .Values.server.graceSeconds | int) 10 | quote }}}
        {{- with include "attractor.libpq" . }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.artifacts.existingSecret }}
      envFrom: [{secretRef: {name: {{ . }}}}]
      {{- end }}
      ports:
        - {name: grpc, containerPort: 7171, protocol: TCP}
        - {name: admin, containerPort: 9090, protocol: TCP}
        - {name: raylet, containerPort: 6380, protocol: TCP}
      readinessProbe: {{- include "attractor.ready" (deepCopy .Values.readinessProbe) | nindent 8 }}
      # Of Ray's process alone: it starts a shard again by itself
      startupProbe: {{- mustMerge (dict "tcpSocket" (dict "port" "raylet")) .Values.startupProbe | toYaml | nindent 8 }}
      livenessProbe: {{- mustMerge (dict "tcpSocket" (dict "port" "raylet")) .Values.livenessProbe | toYaml | nindent 8 }}
      resources: {{- include "attractor.shardResources" . | nindent 8 }}
      volumeMounts: {{- include "attractor.mounts" . | nindent 8 }}
  volumes: {{- include "attractor.volumes" . | nindent 4 }}
{{- end -}}

{{/* The token by which Ray's processes know one another: drawn once, and found again by every upgrade. */}}
{{- define "attractor.raySecret" -}}
{{- if not .Values.cluster.ray.existingTokenSecret -}}
{{- $kept := (lookup "v1" "Secret" .Release.Namespace (include "attractor.rayToken" .)).data | default dict -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "attractor.rayToken" . }}
  {{- include "attractor.metadata" . | nindent 2 }}
type: Opaque
data:
  auth_token: {{ $kept.auth_token | default (randAlphaNum 64 | b64enc) }}
{{- end -}}
{{- end -}}
