"""Where the views are."""

from __future__ import annotations

from django.urls import path

from orders import views

urlpatterns = [
    path("orders", views.create_order),
    path("orders/<int:order_id>", views.show_order),
    path("webhooks/parcel", views.parcel_sent),
]
