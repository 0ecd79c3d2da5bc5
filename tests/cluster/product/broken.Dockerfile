# An image whose workers can't start: there is no such module.
ARG ROWLOCK
FROM ${ROWLOCK}
ENV ROWLOCK_APP=nowhere:app
