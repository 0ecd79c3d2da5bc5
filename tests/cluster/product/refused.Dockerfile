# An image that can't even migrate: its settings are refused.
ARG ROWLOCK
FROM ${ROWLOCK}
COPY shop.py /app/
ENV ROWLOCK_APP=shop:app ROWLOCK_POLL_SECONDS=0
