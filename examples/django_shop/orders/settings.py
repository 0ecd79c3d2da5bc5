"""The least that Django needs. Rowlock and Django use one database."""

from __future__ import annotations

import os

from psycopg.conninfo import conninfo_to_dict

_url = conninfo_to_dict(os.environ["ROWLOCK_DATABASE_URL"])

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.pop("dbname", "postgres"),
        "OPTIONS": _url,  # host, user, password, sslmode, …
    }
}
INSTALLED_APPS = ["orders"]
ROOT_URLCONF = "orders.urls"
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for trying")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
