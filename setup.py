from configparser import ConfigParser
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=open('README.md', encoding='utf-8').read(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author=cfg['author'],
    url=cfg['git_url'],
    keywords=cfg['keywords'],
    python_requires='>=' + cfg['min_python'],
    # Weights, presets and result files live beside the notebooks (the source of truth) and are installed as a subpackage,
    # so that `geoalignclip_nb/` itself holds nothing that `nbdev_export` could not write again.
    packages=find_packages(include=['geoalignclip_nb', 'geoalignclip_nb.*']) + ['geoalignclip_nb.assets'],
    package_dir={'geoalignclip_nb': 'geoalignclip_nb', 'geoalignclip_nb.assets': 'nbs/assets'},
    package_data={'geoalignclip_nb.assets': ['**/*']},
    # vit-tiny is for checkouts: the wheel holds one model and stays below 64 MB.
    exclude_package_data={'geoalignclip_nb.assets': ['vit-tiny/*'], '': ['__pycache__/*', '**/__pycache__/*', '*.tmp', '**/.*']},
    install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split()},
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f'{cfg["lib_name"]}={cfg["lib_name"]}._modidx:d'],
    },
    zip_safe=False,
)
