{{- /* The pod of the service: (dict "root" $ "track" stable|canary "tag" "digest" "settings"). */}}
{{- define "vigil.servePod" -}}
{{- $root := .root -}}
metadata:
  {{- include "vigil.podMetadata" (list $root .track "serve") | nindent 2 }}
spec:
  {{- include "vigil.podBase" $root | nindent 2 }}
  securityContext:
    {{- include "vigil.podSecurity" $root | nindent 4 }}
  terminationGracePeriodSeconds: {{ $root.Values.pod.terminationGracePeriodS }}
  topologySpreadConstraints:
    {{- include "vigil.spread" (list $root "serve") | nindent 4 }}
  containers:
    - name: vigil
      image: {{ include "vigil.image" (list $root .tag .digest) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      {{- include "vigil.serveContainer" . | nindent 6 }}
      ports:
        - {name: http, containerPort: 3000}
        - {name: grpc, containerPort: 3001}
      {{- with $root.Values }}
      # Once all was there; that may take as long as the state is large.
      startupProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 1
        timeoutSeconds: 2
        failureThreshold: {{ .serve.startS }}
      readinessProbe:
        httpGet: {path: {{ eq .serve.readiness "full" | ternary "/readyz" "/v2/health/live" }}, port: http}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      lifecycle:
        preStop:
          sleep: {seconds: {{ .pod.preStopS }}}
      {{- end }}
  volumes:
    {{- include "vigil.volumes" $root | nindent 4 }}
{{- end }}

{{- /* What the container is whoever runs it, Knative too. */}}
{{- define "vigil.serveContainer" -}}
{{- $root := .root -}}
securityContext:
  {{- include "vigil.containerSecurity" $root | nindent 2 }}
env:
  - {name: VIGIL_GRPC_HOST, value: 0.0.0.0}
  {{- include "vigil.env" (list $root .settings) | nindent 2 }}
{{- with $root.Values.envFrom }}
envFrom: {{ toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml $root.Values.serve.resources | nindent 2 }}
volumeMounts:
  {{- include "vigil.mounts" $root | nindent 2 }}
{{- end }}
