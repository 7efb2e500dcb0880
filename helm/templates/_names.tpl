{{- /* A section that is missing, or null, means what values.yaml says: with --reuse-values a release lacks those that came
after it. Not so the security contexts: null leaves them to the cluster. Resources and strategies are taken as they are. */}}
{{- define "vigil.defaults" -}}
{{- include "vigil.fill" (list .Values (.Files.Get "files/values.yaml" | fromYaml)) -}}
{{- end }}

{{- define "vigil.fill" -}}
{{- $values := index . 0 -}}
{{- range $name, $default := index . 1 -}}
{{- $given := get $values $name -}}
{{- if has $name (list "podSecurityContext" "containerSecurityContext") -}}
{{- else if or (not (hasKey $values $name)) (kindIs "invalid" $given) -}}
{{- $_ := set $values $name $default -}}
{{- else if and (kindIs "map" $default) (kindIs "map" $given) (not (has $name (list "resources" "strategy"))) -}}
{{- include "vigil.fill" (list $given $default) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "vigil.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* At most 45 characters, so that with what is added it is still the name of a StatefulSet: Kubernetes makes no pods for
one of more than 52. What is cut is told apart by a hash. */}}
{{- define "vigil.fullname" -}}
{{- $name := include "vigil.name" . -}}
{{- $full := .Release.Name -}}
{{- if .Values.fullnameOverride }}{{ $full = .Values.fullnameOverride }}{{ else if not (contains $name $full) }}{{ $full = printf "%s-%s" $full $name }}{{ end -}}
{{- if gt (len $full) 45 -}}
{{ printf "%s-%s" ($full | trunc 36 | trimAll "-.") (sha256sum $full | trunc 8) }}
{{- else -}}
{{ $full | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- /* The Secret with API keys. */}}
{{- define "vigil.keysSecret" -}}
{{ default (printf "%s-keys" (include "vigil.fullname" .)) .Values.access.existingSecret }}
{{- end }}

{{- /* Of one part of the release: (list root component). */}}
{{- define "vigil.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "vigil.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "vigil.labels" -}}
{{- $root := index . 0 -}}
{{ include "vigil.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimAll "-._" | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object: (list root component suffix). */}}
{{- define "vigil.metadata" -}}
{{- $root := index . 0 -}}
name: {{ printf "%s%s" (include "vigil.fullname" $root) (index . 2) | quote }}
namespace: {{ $root.Release.Namespace | quote }}
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
{{ printf "%s@%s" $root.Values.image.repository . | quote }}
{{- else -}}
{{ printf "%s:%s" $root.Values.image.repository (default $root.Chart.AppVersion (index . 1)) | quote }}
{{- end -}}
{{- end }}

{{- /* "true" where feature state lies in the memory of one process. */}}
{{- define "vigil.inMemory" -}}
{{- with .Values }}{{ if and (has .state.url (list "memory:" "")) (not .state.existingSecret) (not .valkey.trial.enabled) }}true{{ end }}{{ end -}}
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
- {name: {{ printf "VIGIL_%s" (upper $name) | quote }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{- /* What is for callers from outside: neither metrics nor control. */}}
{{- define "vigil.published" -}}
{{- if eq . "http" -}}
[/v1, /v2/models, /v2/health]
{{- else -}}
{{- $methods := list "ServerLive" "ServerReady" "ServerMetadata" "ModelReady" "ModelMetadata" "ModelConfig" "ModelInfer" "ModelStreamInfer" -}}
- /vigil.v1.Decisions
- /grpc.health.v1.Health
{{- range $methods }}
- /inference.GRPCInferenceService/{{ . }}
{{- end }}
{{- end -}}
{{- end }}
