{{- /* Of every pod and container, where they are not left to the cluster. */}}
{{- define "vigil.podSecurity" -}}
{{- with .Values.podSecurityContext }}
securityContext: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "vigil.containerSecurity" -}}
{{- with .Values.containerSecurityContext }}
securityContext: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Who it is and where it may run. */}}
{{- define "vigil.podBase" -}}
serviceAccountName: {{ include "vigil.serviceAccount" . | quote }}
automountServiceAccountToken: false
{{- /* A Service named vigil would bring VIGIL_PORT and more into the pods, which are no settings and stop the start. */}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- include "vigil.podSecurity" . }}
{{- with .Values.hostAliases }}
hostAliases: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.pod }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
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
  whenUnsatisfiable: {{ $root.Values.pod.spread | quote }}
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
      name: {{ default (printf "%s-state" (include "vigil.fullname" $root)) $root.Values.state.existingSecret | quote }}
      key: {{ $root.Values.state.existingSecret | empty | ternary "url" $root.Values.state.existingSecretKey | quote }}
{{- if $root.Values.tls.caSecret }}
- {name: SSL_CERT_FILE, value: /etc/vigil-ca/ca.crt}
- {name: REQUESTS_CA_BUNDLE, value: /etc/vigil-ca/ca.crt}
{{- end }}
{{- include "vigil.settings" (index . 1) }}
{{- range $name, $value := $root.Values.env }}
- {name: {{ $name | quote }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{- /* (list root track component): labels and annotations; another address of state makes new pods (a password is no
part of it: what is short could be guessed from its hash). */}}
{{- define "vigil.podMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "vigil.selector" (list $root (index . 2)) | nindent 2 }}
  track: {{ index . 1 | quote }}
  {{- with merge (dict) $root.Values.pod.labels $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/state: {{ regexReplaceAll "//[^@]*@" (include "vigil.stateUrl" $root) "//" | sha256sum }}
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
{{- include "vigil.caVolume" . }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "vigil.caVolume" -}}
{{- with .Values.tls.caSecret }}
- name: ca
  secret:
    secretName: {{ . | quote }}
    items: [{key: {{ $.Values.tls.caSecretKey | quote }}, path: ca.crt}]
{{- end }}
{{- end }}

{{- /* What the user adds beside and before the container. */}}
{{- define "vigil.sidecars" -}}
{{- with .Values.sidecars }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "vigil.initContainers" -}}
{{- with .Values.initContainers }}
initContainers: {{ toYaml . | nindent 2 }}
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
      requests: {storage: {{ $root.Values.state.persistence.size | quote }}}
{{- end }}

{{- define "vigil.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /state}
{{- if .Values.tls.caSecret }}
- {name: ca, mountPath: /etc/vigil-ca, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
