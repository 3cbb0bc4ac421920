#!/usr/bin/python3
"""Writes corpus.json: templates, their variables, and what real Django makes of
them. Run it as `generate.py > corpus.json`; with --check FILE it only compares.

The templates are in cases.json next to this script, in groups that share their
variables. A case is a template, or an object with template, vars, mode ("text"
without autoescape, else "html") and known_difference: why Godwit deviates.

A variable {"$datetime": "2024-01-02T03:04:05+02:00"} is a datetime for Django;
Godwit gets the text, because that is what JSON can carry. A variable "now" is
what the clock says.
"""
import contextlib
import datetime
import json
import os
import sys
import time
from unittest import mock

os.environ["TZ"] = "UTC"
time.tzset()

import django
from django.conf import settings

# USE_L10N is the default since Django 4.0 and cannot be turned off since 5.0.
settings.configure(
    USE_I18N=True, USE_L10N=True, USE_TZ=False, TIME_ZONE="UTC", LANGUAGE_CODE="en-us",
    INSTALLED_APPS=["django.contrib.humanize"],
)
django.setup()

from django.contrib.humanize.templatetags import humanize
from django.template import Context, Engine
from django.utils import timesince

ENGINE = Engine(libraries={
    "humanize": "django.contrib.humanize.templatetags.humanize",
    "i18n": "django.templatetags.i18n",
    "l10n": "django.templatetags.l10n",
    "tz": "django.templatetags.tz",
    "static": "django.templatetags.static",
})


def parse_datetime(text):
    text = text.replace("Z", "+00:00").replace("T", " ")
    return datetime.datetime.fromisoformat(text)


def variables(value):
    """Turns {"$datetime": ...} into datetimes, all the way down."""
    if isinstance(value, dict):
        if set(value) == {"$datetime"}:
            return parse_datetime(value["$datetime"])
        if set(value) == {"$time"}:
            return datetime.time.fromisoformat(value["$time"])
        return {k: variables(v) for k, v in value.items()}
    if isinstance(value, list):
        return [variables(v) for v in value]
    return value


def clock(now):
    """Stops Django's clock at now."""
    class Meta(type):
        def __instancecheck__(cls, other):
            return isinstance(other, datetime.datetime)

    class Stopped(datetime.datetime, metaclass=Meta):
        @classmethod
        def now(cls, tz=None):
            if tz is None:
                return now.replace(tzinfo=None)
            return (now if now.tzinfo else now.replace(tzinfo=datetime.timezone.utc)).astimezone(tz)

    module = mock.Mock(wraps=datetime)
    module.datetime = Stopped
    module.timedelta = datetime.timedelta
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(humanize, "datetime", Stopped))
    stack.enter_context(mock.patch.object(timesince, "datetime", module))
    return stack


def render(template, values, mode):
    values = variables(values)
    now = values.get("now")
    with clock(now) if isinstance(now, datetime.datetime) else contextlib.nullcontext():
        try:
            context = Context(values, autoescape=mode == "html")
            return {"output": str(ENGINE.from_string(template).render(context))}
        except Exception as e:
            return {"error": type(e).__name__}


def corpus(path):
    with open(path, encoding="utf-8") as f:
        groups = json.load(f)
    cases = []
    for name, group in groups.items():
        for number, entry in enumerate(group["cases"], 1):
            case = dict(entry) if isinstance(entry, dict) else {"template": entry}
            case["name"] = "%s/%d" % (name, number)
            case.setdefault("mode", "html")
            case.update(render(case["template"], case.get("vars", group["vars"]), case["mode"]))
            cases.append(case)
    return {"vars": {n: g["vars"] for n, g in groups.items()}, "cases": cases}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    made = corpus(os.path.join(here, "cases.json"))
    if sys.argv[1:2] != ["--check"]:
        sys.stdout.write(json.dumps(made, indent=1, sort_keys=True) + "\n")
        return
    with open(sys.argv[2], encoding="utf-8") as f:
        have = json.load(f)
    want = {c["name"]: c for c in made["cases"]}
    have_cases = {c["name"]: c for c in have["cases"]}
    bad = [n for n in sorted(set(want) | set(have_cases)) if have_cases.get(n) != want.get(n)]
    for n in bad:
        print("%s\n  file:   %r\n  Django: %r" % (n, have_cases.get(n), want.get(n)))
    if have["vars"] != made["vars"]:
        print("the variables differ")
    sys.exit(1 if bad or have["vars"] != made["vars"] else 0)


main()
