"""Your own pictures and dialogues, shown on emoji: drawings and chats become files that Sightline reads."""
