{{- /* What every pod of Vigil's own image has. */}}
{{- define "vigil.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "vigil.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* Who it is and where it may run. */}}
{{- define "vigil.podBase" -}}
serviceAccountName: {{ include "vigil.serviceAccount" . }}
automountServiceAccountToken: false
{{- /* A Service named vigil would bring VIGIL_PORT and more into the pods, which are no settings and stop the start. */}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* (list root component): a pod each on its own node and in its own zone, as far as they go. */}}
{{- define "vigil.spread" -}}
{{- $root := index . 0 -}}
{{- $selector := include "vigil.selector" . -}}
{{- range $i, $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
{{- if $i }}{{ "\n" }}{{ end }}- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ $root.Values.pod.spread }}
  labelSelector:
    matchLabels:
      {{- $selector | nindent 6 }}
{{- end }}
{{- end }}

{{- /* What is in the environment of every worker: (list root settings). */}}
{{- define "vigil.env" -}}
{{- $root := index . 0 -}}
- {name: VIGIL_STATE_DIR, value: /state}
- name: VIGIL_STATE_URL
  valueFrom:
    secretKeyRef:
      name: {{ default (printf "%s-state" (include "vigil.fullname" $root)) $root.Values.state.existingSecret }}
      key: {{ $root.Values.state.existingSecret | empty | ternary "url" $root.Values.state.existingSecretKey }}
{{- include "vigil.settings" (index . 1) }}
{{- range $name, $value := $root.Values.env }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{- /* (list root track component): labels and annotations; another address of state makes new pods. */}}
{{- define "vigil.podMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "vigil.selector" (list $root (index . 2)) | nindent 2 }}
  track: {{ index . 1 }}
  {{- with merge (dict) $root.Values.pod.labels $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/state: {{ include "vigil.stateUrl" $root | sha256sum }}
  {{- with $root.Values.pod.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "vigil.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if not (include "vigil.claimed" .) }}
- name: state
  emptyDir: {sizeLimit: 2Gi}
{{- end }}
{{- end }}

{{- /* "true" where pods keep their state on a volume of their own. */}}
{{- define "vigil.claimed" -}}
{{- if and (include "vigil.inMemory" .) .Values.state.persistence.enabled }}true{{ end -}}
{{- end }}

{{- /* (list root component) */}}
{{- define "vigil.claim" -}}
{{- $root := index . 0 -}}
- metadata:
    name: state
    labels:
      {{- include "vigil.selector" . | nindent 6 }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with $root.Values.state.persistence.storageClass }}
    storageClassName: {{ eq . "-" | ternary "" . | quote }}
    {{- end }}
    resources:
      requests: {storage: {{ $root.Values.state.persistence.size }}}
{{- end }}

{{- define "vigil.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /state}
{{- end }}
