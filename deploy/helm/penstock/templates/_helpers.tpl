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

{{- /* The ports of the servers that the settings name, and those of networkPolicy.upstreamPorts: one a line. */ -}}
{{- define "penstock.ports" -}}
{{- $urls := list .Values.settings.upstream .Values.settings.encoder }}
{{- range .Values.settings.upstreams }}{{ $urls = append $urls .url }}{{ end }}
{{- $ports := dict }}
{{- range .Values.networkPolicy.upstreamPorts }}{{ $_ := set $ports (toString (int .)) true }}{{ end }}
{{- range $urls }}
{{- if and . (contains "://" .) }}
{{- $url := urlParse . }}
{{- $named := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
{{- $_ := set $ports ($named | default (ternary "80" "443" (eq $url.scheme "http"))) true }}
{{- end }}
{{- end }}
{{- keys $ports | sortAlpha | join "\n" }}
{{- end }}

{{- /* What must not be rendered. */ -}}
{{- define "penstock.checked" -}}
{{- range $name := list "upstream_key" "admin_token" "audit_key" "encoder_key" "content_key" }}
{{- if and (get $.Values.settings $name) (not (hasPrefix "${" (toString (get $.Values.settings $name)))) }}
{{- fail (printf "settings.%s would lie in a ConfigMap, which is no place for secrets: put it into a Secret, and name that under secretEnv.PENSTOCK_%s" $name (upper $name)) }}
{{- end }}
{{- end }}
{{- range $name := list "state" "audit_database" "content_keys_database" }}
{{- if regexMatch "://[^/@]*:[^/@$]+@" (toString (get $.Values.settings $name)) }}
{{- fail (printf "settings.%s holds a password and would lie in a ConfigMap: put it into a Secret, and name that under secretEnv.PENSTOCK_%s" $name (upper $name)) }}
{{- end }}
{{- end }}
{{- range $name, $each := .Values.settings.upstreams }}
{{- if and (get $each "key") (not (hasPrefix "${" (toString (get $each "key")))) }}
{{- fail (printf "settings.upstreams.%s.key would lie in a ConfigMap, which is no place for secrets: name a variable of secretEnv with key_env" $name) }}
{{- end }}
{{- end }}
{{- if and (hasKey .Values.settings "workers") (not (int .Values.settings.workers)) (not ((.Values.resources.limits).cpu)) }}
{{- fail "settings.workers=0 makes a worker for each core of the node: name a number, or set resources.limits.cpu" }}
{{- end }}
{{- end }}
