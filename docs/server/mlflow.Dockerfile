FROM python:3.12-slim
RUN pip install --no-cache-dir 'mlflow[auth]==3.17.2' psycopg2-binary==2.9.13 \
    && useradd --create-home mlflow && install --directory --owner=mlflow /artifacts
USER mlflow
WORKDIR /home/mlflow
