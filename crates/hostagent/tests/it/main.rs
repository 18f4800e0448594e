mod app_config;
mod commands;
mod download;
mod engine;
mod packages;
mod services;
mod settings;
