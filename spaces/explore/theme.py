"""Colours and shapes of the page, one look for light and dark."""

from pathlib import Path

import gradio as gr

STYLE = Path(__file__).with_name("style.css").read_text()
THEME = gr.themes.Soft(
    primary_hue="indigo",
    secondary_hue="amber",
    neutral_hue="slate",
    radius_size="lg",
    font=("ui-sans-serif", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
).set(
    # Titles as plain text, and grey text that can be read (4.5 to 1 or better).
    block_title_background_fill="transparent",
    block_title_background_fill_dark="transparent",
    block_title_padding="0",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_label_background_fill="*background_fill_primary",
    block_label_background_fill_dark="*background_fill_secondary",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    input_placeholder_color="*neutral_500",
    body_background_fill="*neutral_100",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_shadow="none",
    input_background_fill="*neutral_50",
    input_background_fill_dark="*neutral_800",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_600",
    button_secondary_background_fill="white",
    button_secondary_background_fill_dark="*neutral_800",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    checkbox_border_color="*neutral_400",
    checkbox_border_color_dark="*neutral_500",
    checkbox_border_width="1.5px",
    button_large_radius="*radius_lg",
)
