{{/* Name of what is installed. */}}
{{- define "koi-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The label that NetworkPolicies of nodes know the operator by. It alone selects, so
that a release can take over what kubectl installed. */}}
{{- define "koi-operator.selector" -}}
app.kubernetes.io/name: koi-operator
{{- end -}}

{{- define "koi-operator.labels" -}}
{{ include "koi-operator.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The metadata of an object: a dict of root, name, and where there are any namespace,
labels and annotations. */}}
{{- define "koi-operator.metadata" -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- $own := include "koi-operator.labels" .root | fromYaml }}
  {{- toYaml (merge (dict) (.labels | default dict) $own .root.Values.labels) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An object of files/, under metadata of this release: a dict of root, object and
what koi-operator.metadata takes. Its own labels and annotations stay. */}}
{{- define "koi-operator.object" -}}
{{- $meta := .object.metadata -}}
{{- $given := dict "root" .root "name" (.name | default $meta.name) "namespace" .namespace
  "labels" (merge (dict) (.labels | default dict) ($meta.labels | default dict))
  "annotations" (merge (dict) (.annotations | default dict) ($meta.annotations | default dict)) -}}
{{- toYaml (merge (dict "metadata" (include "koi-operator.metadata" $given | fromYaml)) (omit .object "metadata")) }}
{{- end -}}

{{- define "koi-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "koi-operator.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* A reference to an image: a dict of root and image. */}}
{{- define "koi-operator.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Not empty where the operator serves metrics. */}}
{{- define "koi-operator.metrics" -}}
{{- if or .Values.metrics.enabled .Values.metrics.service.enabled .Values.monitoring.podMonitors -}}true{{- end -}}
{{- end -}}

{{/* An object's binding to the operator's ServiceAccount: a dict of root, kind and name. */}}
{{- define "koi-operator.bound" -}}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ include "koi-operator.serviceAccountName" .root }}
  namespace: {{ .root.Release.Namespace }}
{{- end -}}
