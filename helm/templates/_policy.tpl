{{- /* (list root component): the pods it is about. */}}
{{- define "vigil.policyOf" -}}
podSelector:
  matchLabels:
    {{- include "vigil.selector" . | nindent 4 }}
policyTypes: [Ingress, Egress]
{{- end }}

{{- define "vigil.dns" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

{{- define "vigil.stateEgress" -}}
{{- if not (include "vigil.inMemory" .) }}
- ports:
    {{- range .Values.networkPolicy.statePorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- if .Values.valkey.trial.enabled }}
  to: [{podSelector: {matchLabels: {{ include "vigil.selector" (list . "valkey") | fromYaml | toJson }}}}]
  {{- end }}
{{- end }}
{{- with .Values.networkPolicy.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}
