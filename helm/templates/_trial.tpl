{{- /* What servers for trying things have in common: (dict "root" "component" "image" "port" "size" "resources" "args" "mounts" "volumes"). */}}
{{- define "vigil.trial" -}}
{{- $root := .root -}}
{{- $suffix := printf "-%s" .component -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "vigil.metadata" (list $root .component $suffix) | nindent 2 }}
spec:
  type: ClusterIP
  clusterIP: None
  selector:
    {{- include "vigil.selector" (list $root .component) | nindent 4 }}
  ports: [{name: tcp, port: {{ .port }}, targetPort: tcp}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "vigil.metadata" (list $root .component $suffix) | nindent 2 }}
spec:
  replicas: 1
  revisionHistoryLimit: {{ $root.Values.revisionHistoryLimit }}
  serviceName: {{ printf "%s%s" (include "vigil.fullname" $root) $suffix | quote }}
  selector:
    matchLabels:
      {{- include "vigil.selector" (list $root .component) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "vigil.selector" (list $root .component) | nindent 8 }}
    spec:
      {{- include "vigil.podBase" $root | nindent 6 }}
      terminationGracePeriodSeconds: 30
      containers:
        - name: {{ .component }}
          image: {{ .image | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy | quote }}
          command: {{ toYaml .command | nindent 12 }}
          {{- with .env }}
          env: {{ toYaml . | nindent 12 }}
          {{- end }}
          {{- include "vigil.containerSecurity" $root | nindent 10 }}
          ports:
            - {name: tcp, containerPort: {{ .port }}}
          startupProbe:
            tcpSocket: {port: tcp}
            periodSeconds: 1
            failureThreshold: 60
          readinessProbe:
            tcpSocket: {port: tcp}
          resources:
            {{- toYaml .resources | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: /data}
            - {name: tmp, mountPath: /tmp}
            {{- with .mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 256Mi}
        {{- if not .size }}
        - name: data
          emptyDir: {}
        {{- end }}
        {{- with .volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  {{- with .size }}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: {{ . | quote }}}}
  {{- end }}
{{- if $root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "vigil.metadata" (list $root .component $suffix) | nindent 2 }}
spec:
  {{- include "vigil.policyOf" (list $root .component) | nindent 2 }}
  ingress:
    - ports: [{port: tcp, protocol: TCP}]
      from: [{podSelector: {}}]
  egress:
    {{- include "vigil.dns" $root | nindent 4 }}
    - ports: [{port: tcp, protocol: TCP}]
      to: [{podSelector: {matchLabels: {{ include "vigil.selector" (list $root .component) | fromYaml | toJson }}}}]
{{- end }}
{{- end }}
