CREATE DATABASE mlflow_users;
