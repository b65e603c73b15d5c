"""The same architecture as other toolchains would deploy it: what `edge bench --against` compares a bundle with."""
