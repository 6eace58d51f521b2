"""What one uses: child networks, their cost, predictions and exports."""
