{{/* Name of the KoiNode, and so of its Service. */}}
{{- define "koi-coordinator.name" -}}
{{- .Values.name | default .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "koi-coordinator.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The metadata of an object: a dict of root, name, and where there are any labels and
annotations. */}}
{{- define "koi-coordinator.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- toYaml (merge (include "koi-coordinator.labels" .root | fromYaml) (.labels | default dict) .root.Values.labels) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* URL below which peers find the coordinator; "" leaves it to the operator. */}}
{{- define "koi-coordinator.baseURL" -}}
{{- if .Values.coordinator.baseURL -}}
{{- .Values.coordinator.baseURL -}}
{{- else if .Values.ingress.enabled -}}
{{- printf "%s://%s%s" (ternary "https" "http" .Values.ingress.tls.enabled) .Values.ingress.host .Values.ingress.path -}}
{{- else if .Values.gateway.enabled -}}
{{- printf "%s://%s%s" (ternary "https" "http" .Values.gateway.https) .Values.gateway.host .Values.gateway.path -}}
{{- end -}}
{{- end -}}

{{- define "koi-coordinator.testImage" -}}
{{- with .Values.test.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Part of a spec without what is empty, which means the same to the API: "" [] {}
false. Of interests [] means something else, and of these maps each value counts. */}}
{{- define "koi-coordinator.pruned" -}}
{{- $out := dict -}}
{{- range $key, $value := . -}}
{{- if and (kindIs "map" $value) (not (has $key (list "podTemplate" "resources" "annotations"))) -}}
{{- $value = include "koi-coordinator.pruned" $value | fromYaml -}}
{{- end -}}
{{- if or $value (and (eq $key "interests") (kindIs "slice" $value)) -}}
{{- $_ := set $out $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}
