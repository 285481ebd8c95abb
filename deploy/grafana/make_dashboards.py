#!/usr/bin/env python3
"""Writes dashboards/*.json, which Grafana reads, of what panels.py says. usage: make_dashboards.py [--check]

--check writes nothing, and fails where a file is not what would be written.
"""
import dataclasses
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Of 24 columns; a row of stats, and others in twos or threes.
WIDTHS = {"stat": 4, "timeseries": 8, "bargauge": 8}
HEIGHTS = {"stat": 4, "timeseries": 8, "bargauge": 8}
VARIABLES = {"model": "label_values(qamserve_requests_running, model)", "pool": "label_values(qamserve_job_queue_depth, pool)",
             "instance": "label_values(qamserve_build_info, instance)"}


@dataclasses.dataclass
class Panel:
    title: str
    description: str
    kind: str  # stat, timeseries, bargauge
    unit: str  # as Grafana calls it
    targets: list  # (expression, legend)
    thresholds: list = dataclasses.field(default_factory=list)  # (from, color); green below
    stacked: bool = False
    most: float = None  # end of the axis
    decimals: int = None


@dataclasses.dataclass
class Row:
    title: str
    panels: list


@dataclasses.dataclass
class Dashboard:
    uid: str
    title: str
    variables: list
    rows: list

    def panels(self):
        return [panel for row in self.rows for panel in row.panels]


def field_config(panel):
    steps = [{"color": "green", "value": None}] + [{"color": color, "value": value} for value, color in panel.thresholds]
    defaults = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 20 if panel.stacked else 5, "showPoints": "never",
                              "stacking": {"mode": "normal" if panel.stacked else "none"},
                              "thresholdsStyle": {"mode": "line" if panel.thresholds else "off"}}
    return {"defaults": defaults, "overrides": []}


def options(panel):
    if panel.kind == "timeseries":
        return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "bargauge":
        return {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic"}
    return {"reduceOptions": reduce, "colorMode": "value" if panel.thresholds else "none", "graphMode": "area", "textMode": "auto"}


def panel_json(panel, number, x, y):
    targets = [{"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend or "__auto",
                "range": panel.kind != "bargauge", "instant": panel.kind == "bargauge"}
               for i, (expression, legend) in enumerate(panel.targets)]
    return {"id": number, "type": panel.kind, "title": panel.title, "description": panel.description, "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": WIDTHS[panel.kind], "h": HEIGHTS[panel.kind]}, "fieldConfig": field_config(panel),
            "options": options(panel), "targets": targets}


def panels_json(dashboard):
    panels, number, y = [], 1, 0
    for row in dashboard.rows:
        panels.append({"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        number, x, y = number + 1, 0, y + 1
        for panel in row.panels:
            if x + WIDTHS[panel.kind] > 24:
                x, y = 0, y + HEIGHTS[row.panels[0].kind]
            panels.append(panel_json(panel, number, x, y))
            number, x = number + 1, x + WIDTHS[panel.kind]
        y += max(HEIGHTS[panel.kind] for panel in row.panels)
    return panels


def variables_json(dashboard):
    variables = [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}]
    for name in dashboard.variables:
        variables.append({"name": name, "label": name, "type": "query", "datasource": DATASOURCE,
                          "query": {"query": VARIABLES[name], "refId": name}, "refresh": 2, "sort": 1, "multi": True,
                          "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}})
    return variables


def dashboard_json(dashboard):
    links = [{"type": "dashboards", "title": "qamserve", "tags": ["qamserve"], "asDropdown": True, "includeVars": True,
              "keepTime": True}]
    return {"uid": dashboard.uid, "title": dashboard.title, "tags": ["qamserve"], "editable": False, "schemaVersion": 39,
            "version": 1, "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "links": links,
            "templating": {"list": variables_json(dashboard)}, "annotations": {"list": []}, "panels": panels_json(dashboard)}


def main():
    from panels import ALL  # of which this module is part
    wrong = []
    for dashboard in ALL:
        path = FOLDER / "dashboards" / f"{dashboard.uid}.json"
        text = json.dumps(dashboard_json(dashboard), indent=1) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            wrong.append(path.name)
    if wrong:
        sys.exit(f"not what make_dashboards.py writes: {', '.join(wrong)}")


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    sys.modules["make_dashboards"] = sys.modules["__main__"]
    main()
