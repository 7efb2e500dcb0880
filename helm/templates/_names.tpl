{{- define "vigil.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* 50 characters, so that what is added still makes a name. */}}
{{- define "vigil.fullname" -}}
{{- $name := include "vigil.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- /* Of one part of the release: (list root component). */}}
{{- define "vigil.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "vigil.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "vigil.labels" -}}
{{- $root := index . 0 -}}
{{ include "vigil.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object: (list root component suffix). */}}
{{- define "vigil.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "vigil.fullname" $root }}{{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "vigil.labels" (list $root (index . 1)) | nindent 2 }}
{{- end }}

{{- define "vigil.serviceAccount" -}}
{{ default (include "vigil.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- /* (list root tag digest) */}}
{{- define "vigil.image" -}}
{{- $root := index . 0 -}}
{{- with index . 2 -}}
{{ $root.Values.image.repository }}@{{ . }}
{{- else -}}
{{ $root.Values.image.repository }}:{{ default $root.Chart.AppVersion (index . 1) }}
{{- end -}}
{{- end }}

{{- /* "true" where feature state lies in the memory of one process. */}}
{{- define "vigil.inMemory" -}}
{{- with .Values }}{{ if and (eq .state.url "memory:") (not .state.existingSecret) (not .valkey.trial.enabled) }}true{{ end }}{{ end -}}
{{- end }}

{{- define "vigil.stateUrl" -}}
{{ .Values.valkey.trial.enabled | ternary (printf "redis://%s-valkey.%s.svc:6379/0" (include "vigil.fullname" .) .Release.Namespace) .Values.state.url }}
{{- end }}

{{- define "vigil.brokers" -}}
{{ .Values.kafka.trial.enabled | ternary (printf "%s-kafka.%s.svc:9092" (include "vigil.fullname" .) .Release.Namespace) .Values.kafka.brokers }}
{{- end }}

{{- /* Settings as environment variables: big numbers in full, where YAML makes them 2.6e+08. They stand in the pods
themselves, so that pods of an older revision keep theirs while a newer one is tried. */}}
{{- define "vigil.settings" -}}
{{- range $name, $value := . }}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}{{ $value = int64 $value }}{{ end }}
- {name: VIGIL_{{ upper $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}
