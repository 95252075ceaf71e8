"""The design of all reports: their building blocks, and the web page, Markdown and pictures that are made of them."""
