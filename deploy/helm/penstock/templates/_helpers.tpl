{{- define "penstock.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "penstock.kind" -}}
{{ ternary "StatefulSet" "Deployment" .Values.audit.persistence.enabled }}
{{- end }}

{{- /* Where the policy is: files in the pod, or what the values name. */ -}}
{{- define "penstock.policy" -}}
{{ if or .Values.policy.files .Values.policy.existingConfigMap }}/etc/penstock/policy{{ else }}{{ .Values.policy.source }}{{ end }}
{{- end }}
