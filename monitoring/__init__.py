"""Grafana's dashboards, written by `python -m monitoring` into helm/dashboards/."""
