{{- /* The pod of the service: (dict "root" $ "track" stable|canary "tag" "digest" "settings"). */}}
{{- define "vigil.servePod" -}}
{{- $root := .root -}}
{{- $scheme := include "vigil.scheme" $root | upper -}}
metadata:
  {{- include "vigil.podMetadata" (list $root .track "serve") | nindent 2 }}
spec:
  {{- include "vigil.podBase" $root | nindent 2 }}
  {{- include "vigil.initContainers" $root | nindent 2 }}
  terminationGracePeriodSeconds: {{ $root.Values.pod.terminationGracePeriodS }}
  topologySpreadConstraints:
    {{- include "vigil.spread" (list $root "serve") | nindent 4 }}
  containers:
    - name: vigil
      image: {{ include "vigil.image" (list $root .tag .digest) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy | quote }}
      {{- if $root.Values.tls.secret }}
      args: [bentoml, serve, /app/bento, --ssl-certfile, /etc/vigil-tls/tls.crt, --ssl-keyfile, /etc/vigil-tls/tls.key]
      {{- end }}
      {{- include "vigil.serveContainer" . | nindent 6 }}
      ports:
        - {name: http, containerPort: 3000}
        - {name: grpc, containerPort: 3001}
      {{- with $root.Values }}
      # Once all was there; that may take as long as the state is large.
      startupProbe:
        httpGet: {path: /readyz, port: http, scheme: {{ $scheme }}}
        periodSeconds: 1
        timeoutSeconds: 2
        failureThreshold: {{ .serve.startS }}
      readinessProbe:
        httpGet: {path: {{ eq .serve.readiness "full" | ternary "/readyz" "/readyz?degraded=true" | quote }}, port: http, scheme: {{ $scheme }}}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /livez, port: http, scheme: {{ $scheme }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      lifecycle:
        preStop:
          sleep: {seconds: {{ .pod.preStopS }}}
      {{- end }}
    {{- include "vigil.sidecars" $root | nindent 4 }}
  volumes:
    {{- include "vigil.volumes" $root | nindent 4 }}
    {{- include "vigil.keysVolume" $root | nindent 4 }}
    {{- with $root.Values.tls.secret }}
    - name: tls
      secret: {secretName: {{ . | quote }}}
    {{- end }}
{{- end }}

{{- /* What the container is whoever runs it, Knative too. */}}
{{- define "vigil.serveContainer" -}}
{{- $root := .root -}}
{{- include "vigil.containerSecurity" $root }}
env:
  - {name: VIGIL_GRPC_HOST, value: 0.0.0.0}
  # Of the pod's own loopback interface: `kubectl port-forward` reaches it, no other pod does.
  {{- if le (int (default 1 $root.Values.settings.workers)) 1 }}
  - {name: VIGIL_ADMIN_PORT, value: "3002"}
  {{- end }}
  - {name: VIGIL_ACCESS, value: {{ $root.Values.access.mode | quote }}}
  {{- if eq $root.Values.access.mode "keys" }}
  - {name: VIGIL_KEYS_FILE, value: /etc/vigil-keys/keys.json}
  {{- end }}
  # Less than the pause before SIGTERM: by then each client has moved to a pod that stays.
  - {name: VIGIL_GRPC_CONNECTION_AGE_S, value: {{ mulf $root.Values.pod.preStopS 0.7 | toString | quote }}}
  {{- include "vigil.env" (list $root .settings) | nindent 2 }}
{{- with $root.Values.envFrom }}
envFrom: {{ toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml $root.Values.serve.resources | nindent 2 }}
volumeMounts:
  {{- include "vigil.mounts" $root | nindent 2 }}
  {{- if eq $root.Values.access.mode "keys" }}
  - {name: keys, mountPath: /etc/vigil-keys, readOnly: true}
  {{- end }}
  {{- if $root.Values.tls.secret }}
  - {name: tls, mountPath: /etc/vigil-tls, readOnly: true}
  {{- end }}
{{- end }}

{{- /* Hashes of keys, which pods re-read: the keys themselves stay in the Secret. */}}
{{- define "vigil.keysVolume" -}}
{{- if eq .Values.access.mode "keys" -}}
- name: keys
  secret:
    secretName: {{ include "vigil.keysSecret" . | quote }}
    items: [{key: keys.json, path: keys.json}]
{{- end }}
{{- end }}

{{- /* How HTTP is spoken: http or https. */}}
{{- define "vigil.scheme" -}}
{{ .Values.tls.secret | empty | ternary "http" "https" }}
{{- end }}
