{{- define "attractor.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{/* Shorter than names may be: pods and claims get endings, and labels take 63 characters. */}}
{{- define "attractor.fullname" -}}
{{- $name := include "attractor.name" . -}}
{{- $joined := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $joined | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{/* They never change: what selects pods by them cannot be changed either. */}}
{{- define "attractor.selector" -}}
app.kubernetes.io/name: {{ include "attractor.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Of pods that serve, and no others of the release. */}}
{{- define "attractor.serving" -}}
{{ include "attractor.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "attractor.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
  {{- include "attractor.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  {{- with .Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "attractor.image" -}}
{{- with .Values.image -}}
{{- if .registry }}{{ .registry }}/{{ end }}{{ .repository -}}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "attractor.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "attractor.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* Those that serve and, where there is one, Ray's head. */}}
{{- define "attractor.rayPods" -}}
{{- if eq .Values.mode "standalone" -}}
matchLabels: {{- include "attractor.serving" . | nindent 2 }}
{{- else -}}
matchLabels: {{- include "attractor.selector" . | nindent 2 }}
matchExpressions: [{key: app.kubernetes.io/component, operator: In, values: [server, head]}]
{{- end -}}
{{- end -}}
