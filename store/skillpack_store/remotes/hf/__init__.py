"""What a repository of the Hugging Face Hub needs: its layout, its uploads, its errors."""
