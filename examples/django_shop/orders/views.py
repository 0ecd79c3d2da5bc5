"""Orders are written and their workflows started in one transaction of Django's."""

# Fields of models have no types that pyright could know without a plugin.
# pyright: basic
from __future__ import annotations

import json

from django.db import connection, transaction
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from orders.client import client
from orders.flows import fulfil
from orders.models import Order, Stock
from rowlock.errors import Refused


class SoldOut(Exception): ...


@csrf_exempt
@require_POST
def create_order(request: HttpRequest) -> HttpResponse:
    new = json.loads(request.body)
    try:
        with transaction.atomic():
            order = Order.objects.create(item=new["item"], cents=new["cents"])
            run = client().start(
                fulfil(order.pk, order.cents), key=f"order-{order.pk}", connection=connection
            )
            stock = Stock.objects.filter(item=order.item, pieces__gt=0)
            if not stock.update(pieces=F("pieces") - 1):
                raise SoldOut  # rolls back: there is no order, and there is no run
    except SoldOut:
        return JsonResponse({"error": f"{new['item']} is sold out"}, status=409)
    return JsonResponse({"order": order.pk, "run": str(run.id)}, status=201)


@require_GET
def show_order(request: HttpRequest, order_id: int) -> HttpResponse:
    order = Order.objects.filter(pk=order_id).first()
    runs = client().runs(key=f"order-{order_id}")
    if order is None or not runs:
        raise Http404
    return JsonResponse({"item": order.item, "order": order.status, "run": runs[0].status})


@csrf_exempt
@require_POST
def parcel_sent(request: HttpRequest) -> HttpResponse:
    """The carrier calls this, perhaps twice: the message's key makes it one."""
    delivery = json.loads(request.body)
    runs = client().runs(key=f"order-{delivery['order_id']}")
    if not runs:
        raise Http404
    try:
        client().run(runs[0].id).send("shipped", delivery["parcel"], key=delivery["id"])
    except Refused as error:
        return JsonResponse({"error": str(error)}, status=409)
    return HttpResponse(status=202)
