"""`python -m recipes.calibration`: writes the built-in calibration text into the package."""

from recipes.calibration import PATH, calibration_bytes

if __name__ == "__main__":
    content = calibration_bytes()
    PATH.write_bytes(content)
    print(f"{PATH}: {len(content)} bytes")
