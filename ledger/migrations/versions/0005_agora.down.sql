DROP TABLE agora_presence;
